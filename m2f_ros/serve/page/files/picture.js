// One camera: decodes its frames and mixes image, colours and confidence on a canvas.

const VIEWS = ["image", "overlay", "labels", "confidence"];
const PLAIN = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "none" };

/** Splits a binary message of the server: see frames.py. */
export function split(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  let at = 4 + length;
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const parts = {};
  for (const [name, size] of Object.entries(head.parts)) {
    parts[name] = new Uint8Array(buffer, at, size);
    at += size;
  }
  return { head, parts };
}

/** Colours of confidence 0 to 255: dark blue, teal, yellow; lightness grows evenly, as in viridis. */
const RAMP = (() => {
  const stops = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  return Uint32Array.from({ length: 256 }, (_, value) => {
    const place = (value / 255) * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    return packed(stops[low].map((from, i) => Math.round(from + (stops[low + 1][i] - from) * (place - low))));
  });
})();

function packed([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

async function pixels(png) {
  const bitmap = await createImageBitmap(new Blob([png], { type: "image/png" }), PLAIN);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function ids(found, bits) {
  const { data } = found, values = bits > 8 ? new Uint16Array(data.length / 4) : new Uint8Array(data.length / 4);
  for (let i = 0, at = 0; i < values.length; i++, at += 4) {
    values[i] = bits > 8 ? data[at] | (data[at + 1] << 8) : data[at];
  }
  return { values, width: found.width, height: found.height };
}

export class Camera {
  /** info: the camera in the server's state. shared: {view, alpha, hidden}. */
  constructor(info, shared, changed) {
    this.info = info;
    this.shared = shared;
    this.changed = changed;
    this.label = this.confidence = this.image = null;
    this.shares = new Map();
    this.mask = this.heat = null;
    this.place = null;
    this.figure = document.createElement("figure");
    this.figure.innerHTML =
      '<div class="picture"><canvas width="640" height="480" tabindex="0" role="img"></canvas>' +
      '<span class="cross" hidden></span></div><figcaption><span class="what"></span><span class="name"></span>' +
      '<span class="problem" role="status" hidden></span></figcaption>';
    this.canvas = this.figure.querySelector("canvas");
    this.canvas.setAttribute("aria-label", `Camera ${info.name || info.topic}; arrow keys name the class of a place`);
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.what = this.figure.querySelector(".what");
    this.cross = this.figure.querySelector(".cross");
    this.figure.querySelector(".name").textContent = info.topic || info.name;
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.leave());
    this.canvas.addEventListener("blur", () => this.leave());
    this.canvas.addEventListener("keydown", (event) => this.step(event));
  }

  get legend() {
    return this.info.legends[Math.min(this.shared.source, this.info.legends.length - 1)] ?? null;
  }

  /** Decodes a frame and shows it. */
  async take(head, parts) {
    const [image, label, confidence] = await Promise.all([
      parts.image && createImageBitmap(new Blob([parts.image], { type: "image/jpeg" }), { imageOrientation: "none" }),
      parts.label && pixels(parts.label),
      parts.confidence && pixels(parts.confidence),
    ]);
    this.image?.close();
    this.image = image ?? null;
    this.label = label ? ids(label, head.ids) : null;
    this.confidence = confidence ? ids(confidence, 8) : null;
    this.stamp = head.stamp;
    const problem = this.figure.querySelector(".problem");
    problem.textContent = head.problem;
    problem.hidden = !head.problem;
    this.mix();
  }

  /** Makes the colours anew: after a frame, and when classes are switched. */
  mix() {
    this.shares.clear();
    this.mask = this.heat = null;
    const { legend } = this;
    if (this.label && legend) {
      const most = this.label.values instanceof Uint16Array ? 65536 : 256;
      const colours = new Uint32Array(most), counts = new Uint32Array(most);
      for (const one of legend.classes) {
        if (!this.shared.hidden.has(one.name)) colours[one.id] = packed(one.colour);
      }
      this.mask = this.painted(this.label, (value) => colours[value], counts);
      for (const one of legend.classes) {
        if (counts[one.id]) this.shares.set(one.name, counts[one.id] / this.label.values.length);
      }
    }
    if (this.confidence) this.heat = this.painted(this.confidence, (value) => RAMP[value]);
    this.draw();
    if (this.place) this.tell();
    this.changed();
  }

  painted({ values, width, height }, colour, counts = null) {
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
    const found = context.createImageData(width, height), out = new Uint32Array(found.data.buffer);
    for (let i = 0; i < out.length; i++) {
      out[i] = colour(values[i]);
      if (counts) counts[values[i]]++;
    }
    context.putImageData(found, 0, 0);
    return canvas;
  }

  draw() {
    const { canvas, context } = this, { view, alpha } = this.shared;
    const size = this.image ?? this.label ?? this.confidence;
    if (!size) return;
    if (canvas.width !== size.width || canvas.height !== size.height) {
      canvas.width = size.width;
      canvas.height = size.height;
    }
    context.globalAlpha = 1;
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const over = (picture, share) => {
      if (!picture) return;
      context.globalAlpha = share;
      context.imageSmoothingEnabled = picture === this.image; // ids have no values in between
      context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    };
    if (view === "image" || view === "overlay") over(this.image, 1);
    if (view === "overlay") over(this.mask, this.image ? alpha : 1);
    if (view === "labels") over(this.mask, 1);
    if (view === "confidence") over(this.heat, 1);
  }

  /** The rectangle of the picture inside the canvas' box: object-fit leaves margins. */
  box() {
    const { clientWidth, clientHeight, width, height } = this.canvas;
    const scale = Math.min(clientWidth / width, clientHeight / height);
    return { scale, left: (clientWidth - width * scale) / 2, top: (clientHeight - height * scale) / 2 };
  }

  point(event) {
    const { scale, left, top } = this.box();
    const x = Math.floor((event.offsetX - left) / scale), y = Math.floor((event.offsetY - top) / scale);
    const inside = x >= 0 && y >= 0 && x < this.canvas.width && y < this.canvas.height;
    this.place = inside ? [x, y] : null;
    this.cross.hidden = true;
    this.tell();
  }

  step(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    event.stopPropagation();
    const far = event.shiftKey ? 1 : 10, { width, height } = this.canvas;
    const from = this.place ?? [width >> 1, height >> 1];
    this.place = [
      Math.min(width - 1, Math.max(0, from[0] + far * way[0])),
      Math.min(height - 1, Math.max(0, from[1] + far * way[1])),
    ];
    const { scale, left, top } = this.box();
    this.cross.hidden = false;
    this.cross.style.left = `${left + (this.place[0] + 0.5) * scale}px`;
    this.cross.style.top = `${top + (this.place[1] + 0.5) * scale}px`;
    this.tell();
  }

  leave() {
    this.place = null;
    this.cross.hidden = true;
    this.tell();
  }

  value(layer, x, y) {
    if (!layer) return null;
    const column = Math.floor((x * layer.width) / this.canvas.width);
    const row = Math.floor((y * layer.height) / this.canvas.height);
    return layer.values[row * layer.width + column];
  }

  /** Names the class and the confidence of the place below the picture. */
  tell() {
    this.what.replaceChildren();
    if (!this.place) return;
    const [x, y] = this.place, id = this.value(this.label, x, y), share = this.value(this.confidence, x, y);
    const one = this.legend?.classes.find((known) => known.id === id);
    const words = [];
    if (one) {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = `rgb(${one.colour})`;
      this.what.append(swatch);
      words.push(one.name);
    } else if (id !== null) {
      words.push(id === this.legend?.unlabelled ? "unlabelled" : `id ${id}, no class`);
    }
    if (share !== null) words.push(`${Math.round((share / 255) * 100)} %`);
    words.push(`x ${x}, y ${y}`);
    this.what.append(words.join(" · "));
  }
}

export { VIEWS };
