// Masks as run lengths in columns, zeros first, as targets.jsonl has them; and as a byte per pixel in rows.

export function decode(code) {
  const [height, width] = code.size, mask = new Uint8Array(height * width);
  let x = 0, y = 0, value = 0;
  for (let count of code.counts) {
    while (count > 0) {
      const run = Math.min(count, height - y);
      if (value) for (let place = y * width + x, left = run; left; left--, place += width) mask[place] = 1;
      count -= run;
      y += run;
      if (y === height) { y = 0; x++; }
    }
    value = 1 - value;
  }
  return mask;
}

export function encode(mask, width, height) {
  const counts = [];
  let value = 0, count = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0, place = x; y < height; y++, place += width) {
      if (mask[place] === value) count++;
      else { counts.push(count); value = mask[place]; count = 1; }
    }
  }
  counts.push(count);
  return { size: [height, width], counts };
}

// A canvas of the mask's size in one colour.
export function picture(mask, width, height, colour, alpha = 255) {
  const canvas = document.createElement("canvas"), image = new ImageData(width, height);
  canvas.width = width;
  canvas.height = height;
  const [r, g, b] = colour, pixels = new Uint32Array(image.data.buffer);
  const value = (alpha << 24 | b << 16 | g << 8 | r) >>> 0;
  for (let place = 0; place < mask.length; place++) if (mask[place]) pixels[place] = value;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// A disc, or the way of one from one place to another; pixel (x, y) is covered where its centre is.
export function paint(mask, width, height, from, to, radius, value) {
  const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / Math.max(1, radius / 2)));
  for (let step = 0; step <= steps; step++) {
    const cx = from[0] + (to[0] - from[0]) * step / steps, cy = from[1] + (to[1] - from[1]) * step / steps;
    for (let y = Math.max(0, Math.floor(cy - radius)); y < Math.min(height, cy + radius); y++) {
      const half = Math.sqrt(Math.max(0, radius * radius - (y + 0.5 - cy) ** 2));
      const first = Math.max(0, Math.ceil(cx - half - 0.5)), last = Math.min(width - 1, Math.floor(cx + half - 0.5));
      if (half > 0 && last >= first) mask.fill(value, y * width + first, y * width + last + 1);
    }
  }
}

// The inside of a polygon, by even and odd crossings of each row's middle.
export function fill(mask, width, height, corners) {
  for (let y = 0; y < height; y++) {
    const crossings = [];
    corners.forEach(([x0, y0], n) => {
      const [x1, y1] = corners[(n + 1) % corners.length], middle = y + 0.5;
      if ((y0 <= middle) !== (y1 <= middle)) crossings.push(x0 + (middle - y0) / (y1 - y0) * (x1 - x0));
    });
    crossings.sort((a, b) => a - b);
    for (let n = 0; n + 1 < crossings.length; n += 2) {
      const first = Math.max(0, Math.ceil(crossings[n] - 0.5)), last = Math.min(width - 1, Math.ceil(crossings[n + 1] - 0.5) - 1);
      if (last >= first) mask.fill(1, y * width + first, y * width + last + 1);
    }
  }
}
