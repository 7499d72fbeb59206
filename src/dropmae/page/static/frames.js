// Pictures of frames by their number, fetched ahead in the direction of travel.

const MOST = 120, AHEAD = 8;

export class Frames {
  constructor(key, changed) {
    this.key = key;
    this.changed = changed;
    this.kept = new Map(); // number -> ImageBitmap, or the text of why there is none
    this.coming = new Map();
    this.last = 0;
  }

  // The picture of a frame if it is here; it is fetched if not, and so are those that come next.
  get(number, total, side) {
    const step = number < this.last ? -1 : 1;
    this.last = number;
    this.fetch(number, side);
    for (let n = 1; n <= AHEAD && this.kept.has(number); n++) {
      const next = number + n * step;
      if (next >= 0 && next < total) this.fetch(next, side);
    }
    const found = this.kept.get(number);
    if (found !== undefined) { this.kept.delete(number); this.kept.set(number, found); }
    return found;
  }

  fetch(number, side) {
    if (this.kept.has(number) || this.coming.has(number)) return;
    if (this.coming.size >= 4) {
      if (this.coming.has(this.last)) return;
      for (const [other, stop] of this.coming) if (other !== this.last) { stop.abort(); this.coming.delete(other); break; }
    }
    const stop = new AbortController();
    this.coming.set(number, stop);
    this.load(number, side, stop.signal).then((picture) => {
      if (picture !== null) this.kept.set(number, picture);
      for (const old of this.kept.keys()) {
        if (this.kept.size <= MOST) break;
        this.kept.get(old).close?.();
        this.kept.delete(old);
      }
    }).finally(() => {
      if (this.coming.get(number) === stop) this.coming.delete(number);
      if (number === this.last || !this.kept.has(this.last)) this.changed();
    });
  }

  async load(number, side, signal) {
    try {
      const answer = await fetch(`/works/${this.key}/frames/${number}?side=${side}`, { signal });
      if (!answer.ok) return (await answer.json()).error;
      return await createImageBitmap(await answer.blob());
    } catch (error) {
      return error.name === "AbortError" ? null : "this frame could not be fetched";
    }
  }

  forget() { // another size is wanted
    for (const stop of this.coming.values()) stop.abort();
    this.coming.clear();
    for (const picture of this.kept.values()) picture.close?.();
    this.kept.clear();
  }
}
