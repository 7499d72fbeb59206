"""How FFmpeg opens what is read: which formats, over which protocols, and how large its pictures may be.

A file of a playlist format names others, which FFmpeg would open, over the network too; and a file's name is an address
to it as soon as there is a colon in it. So local files are given as `file:`, only formats are allowed that hold their
pictures themselves, and only the protocols that the source itself needs.
"""

from __future__ import annotations

from typing import Any, cast

import av

from dropmae.opening import VIDEO_PIXELS, check_pixels, open_file, pixels_allowed
from dropmae.video.errors import broken

av.logging.set_level(av.logging.PANIC)  # silences FFmpeg; what matters of its messages comes as exceptions

FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,evc,av1,obu,ivf,vc1,vc1test,dirac,dnxhd,apv,"
    "cavsvideo,avs2,avs3,flv,live_flv,kux,asf,asf_o,ogg,nut,rm,mxf,gxf,lxf,wtv,dv,swf,nsv,nuv,mtv,yuv4mpegpipe,cine,"
    "mlv,r3d,dhav,gif,apng,webp,jpegxl_anim,mjpeg,mjpeg_2000,smjpeg,mpjpeg,ingenient,amv,flic,dxa,smk,bink,"
    "bmp_pipe,dds_pipe,dpx_pipe,exr_pipe,gif_pipe,hdr_pipe,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_pipe,pam_pipe,"
    "pbm_pipe,pcx_pipe,pfm_pipe,pgm_pipe,png_pipe,ppm_pipe,psd_pipe,qoi_pipe,sgi_pipe,sunrast_pipe,tiff_pipe,webp_pipe,"
    "aac,ac3,aiff,amr,au,caf,eac3,flac,mp3,wav,w64,"  # sound, so that the message can say so
    "srt,webvtt,ass"  # and subtitles
)
STREAMS = "rtsp,rtp,sdp,rtp_mpegts"
"""Formats of what an address may answer, beside those of files."""
NETWORK = "http,https,httpproxy,ftp,tcp,tls,udp,udplite,rtp,rtsp,srtp,srt,rtmp,rtmpe,rtmps,rtmpt,rtmpte,rtmpts"


def open_container(name: str, url: str | Any, form: str | None = None, camera: bool = False) -> Any:
    """The container at `url` (of `local`, an address, or a file object), opened by FFmpeg.

    `form` is FFmpeg's name of the format where it is known. OSError of one line that starts with `name`.
    """
    options = {"max_pixels": str(pixels_allowed(VIDEO_PIXELS))}
    if not camera:
        kinds = {"file:": "file", "subfile,": "file,subfile"}
        there = isinstance(url, str)
        known = next((kinds[start] for start in kinds if there and url.startswith(start)), NETWORK if there else "none")
        options["protocol_whitelist"] = known
        options["format_whitelist"] = f"{FORMATS},{STREAMS}" if known == NETWORK else FORMATS
    if isinstance(url, str) and url.startswith("file:"):
        open_file(url.removeprefix("file:")).close()
    try:
        if camera or options["protocol_whitelist"] == NETWORK:
            return av.open(url, mode="r", format=form, options=options, metadata_errors="ignore")
        return _probed(name, url, form, options)
    except av.InvalidDataError:
        raise broken(name, "not a video, or its header is damaged") from None
    except av.EOFError:
        raise broken(name, "cut short within its header") from None
    except av.ArgumentError:
        raise broken(name, "not a video, or of a format that is not read: text, a list of other files") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise broken(name, error) from None


def _probed(name: str, url: Any, form: str | None, options: dict[str, str]) -> Any:
    """As `av.open`, which decodes a little to learn what a stream is, but not before the sizes are known to be allowed.

    Where the header lists the streams, the limit goes to their decoders. Where it does not (MPEG-TS, raw streams), PyAV
    has no way to them and says so when asked to; then the sizes are read first, without any decoder.
    """
    how: dict[str, Any] = {"mode": "r", "format": form, "metadata_errors": "ignore"}
    try:
        return av.open(url, options=options, stream_options=cast(Any, [options]), **how)
    except ValueError as error:
        if "stream_options" not in str(error):
            raise
    if not isinstance(url, str):
        url.seek(0)
    with av.open(url, options={**options, "codec_whitelist": "none"}, **how) as container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                check_pixels(name, stream.codec_context.width, stream.codec_context.height, VIDEO_PIXELS)
    if not isinstance(url, str):
        url.seek(0)
    return av.open(url, options=options, **how)
