"""The browser page: a server for this machine alone. People point at things in a video and correct what follows.

`work` is one video with what was said and found; `passes` goes through it, `answers` keeps what comes of it, `prompts`
checks and remembers what people say; `recording` takes frames from a camera; `guard` decides who may ask, `server`
answers. The page itself is in `static/`.
"""
