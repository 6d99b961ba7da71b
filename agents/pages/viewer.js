// The viewer of a report: one clip as several models saw it, frame by frame. Its data are the JSON in the element.
"use strict";
const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]; // "inferno", dark to bright
const DASHES = ["", "6 3", "2 2", "8 2 2 2", "1 3", "10 4", "4 1"];
const SVG = "http://www.w3.org/2000/svg";

function make(parent, name, attributes = {}, text = "") {
  const svg = ["svg", "path", "line", "text", "circle"].includes(name);
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  parent.append(element);
  return element;
}

function hot(share) {
  const place = share * (HEAT.length - 1), low = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[low].map((value, channel) => value + (place - low) * (HEAT[low + 1][channel] - value));
}

function drawFrame(canvas, image, model, frame, grid) {
  const scale = Math.min(2, window.devicePixelRatio || 1), width = 336 * scale;
  canvas.width = width;
  canvas.height = Math.round(width * image.naturalHeight / image.naturalWidth);
  const pen = canvas.getContext("2d"), cells = model.cells[frame], heat = model.heat[frame];
  const down = canvas.height / grid, across = width / grid;
  pen.drawImage(image, 0, 0, width, canvas.height);
  pen.font = `600 ${14 * scale}px system-ui, sans-serif`;
  pen.lineJoin = "round";
  const label = (text, x, y) => {
    pen.lineWidth = 3 * scale; pen.strokeStyle = "#000"; pen.strokeText(text, x, y);
    pen.fillStyle = "#fff"; pen.fillText(text, x, y);
  };
  if (heat) {
    const small = document.createElement("canvas");
    small.width = small.height = grid;
    const paint = small.getContext("2d"), pixels = paint.createImageData(grid, grid);
    heat.forEach((percent, cell) => pixels.data.set([...hot(percent / 100), 255 * 0.65 * percent / 100], 4 * cell));
    paint.putImageData(pixels, 0, 0);
    pen.imageSmoothingEnabled = true; pen.imageSmoothingQuality = "high";
    pen.drawImage(small, 0, 0, width, canvas.height);
    pen.textAlign = "right";
    label(model.largest[frame].toFixed(3), width - 6 * scale, canvas.height - 8 * scale);
    pen.textAlign = "left";
  } else if (cells) {
    pen.fillStyle = "rgb(0 0 0 / 0.55)";
    for (let cell = 0; cell < grid * grid; cell++)
      if (!cells.includes(cell)) pen.fillRect(cell % grid * across, Math.floor(cell / grid) * down, across, down);
    cells.forEach((cell, rank) => {
      const left = cell % grid * across, top = Math.floor(cell / grid) * down;
      for (const [wide, colour] of [[4, "#000"], [2, "#fff"]]) {
        pen.lineWidth = wide * scale; pen.strokeStyle = colour;
        pen.strokeRect(left + 2 * scale, top + 2 * scale, across - 4 * scale, down - 4 * scale);
      }
      label(rank + 1, left + 7 * scale, top + 19 * scale);
    });
  }
}

function drawChart(chart, clip, model) {
  const last = Math.max(1, clip.seconds.length - 1);
  const x = frame => 28 + 262 * frame / last, y = score => 108 - 98 * score;
  for (const tick of [0, 0.5, 1]) {
    make(chart, "line", {x1: 28, x2: 290, y1: y(tick), y2: y(tick), stroke: "currentColor", "stroke-opacity": 0.25});
    make(chart, "text", {x: 24, y: y(tick) + 4, "text-anchor": "end"}, String(tick));
  }
  make(chart, "text", {x: 28, y: 124}, `${clip.seconds[0].toFixed(1)} s`);
  make(chart, "text", {x: 290, y: 124, "text-anchor": "end"}, `${clip.seconds.at(-1).toFixed(1)} s`);
  clip.labels.forEach((label, number) => {
    const path = model.scores[number].map((score, frame) => `${frame ? "L" : "M"}${x(frame)} ${y(score)}`).join("");
    make(chart, "path", {d: path, fill: "none", stroke: label.isTrue ? model.colour : "currentColor",
      "stroke-width": label.isTrue ? 3 : 1.3, "stroke-dasharray": label.isTrue ? "" : DASHES[number % DASHES.length]});
  });
  const cursor = make(chart, "line", {y1: 6, y2: 110, stroke: "currentColor", "stroke-width": 1.5});
  return frame => { cursor.setAttribute("x1", x(frame)); cursor.setAttribute("x2", x(frame)); };
}

class Viewer {
  constructor(root) {
    this.clips = JSON.parse(root.querySelector("script").textContent);
    this.clip = 0; this.frame = 0; this.hidden = new Set(); this.timer = null; this.images = [];
    const controls = make(root, "div", {class: "controls"});
    const select = make(make(controls, "label", {}, "Clip "), "select", {class: "clip"});
    this.clips.forEach((clip, number) => make(select, "option", {value: number}, `${clip.group}: ${clip.name}`));
    for (const model of this.clips[0].models) {
      const label = make(controls, "label");
      const box = make(label, "input", {type: "checkbox", value: model.name});
      box.checked = true;
      label.append(` ${model.name}`);
      box.addEventListener("change", () => { this.hidden[box.checked ? "delete" : "add"](model.name); this.show(); });
    }
    this.truth = make(root, "div", {class: "truth"});
    const scrub = make(root, "div", {class: "scrub"});
    this.play = make(scrub, "button", {type: "button"}, "▶ Play");
    this.slider = make(scrub, "input", {type: "range", min: 0, step: 1, "aria-label": "frame"});
    this.output = make(scrub, "output");
    this.panels = make(root, "div", {class: "panels"});
    make(root, "p", {class: "note"}, "← → step through the frames, space plays, Home and End go to the first and last.");
    select.addEventListener("change", () => this.open(Number(select.value)));
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.play.addEventListener("click", () => this.toggle());
    root.tabIndex = -1;
    root.addEventListener("pointerdown", () => { Viewer.current = this; });
    root.addEventListener("focusin", () => { Viewer.current = this; });
    Viewer.current ??= this;
    this.open(0);
  }

  open(number) {
    this.clip = number; this.frame = 0;
    const clip = this.clips[number];
    this.slider.max = clip.frames.length - 1;
    this.panels.replaceChildren();
    this.images = clip.frames.map(source => {
      const image = new Image();
      image.addEventListener("load", () => this.show());
      image.src = source;
      return image;
    });
    this.parts = clip.models.map(model => {
      const panel = make(this.panels, "figure", {class: "panel", style: `--colour: ${model.colour}`});
      make(panel, "div", {class: "title"}, model.title);
      const canvas = make(panel, "canvas", {role: "img"}), said = make(panel, "div", {class: "said"});
      const chart = make(panel, "svg", {viewBox: "0 0 300 128", role: "img",
        "aria-label": `Scores of ${model.name} over time`});
      const cursor = drawChart(chart, clip, model);
      const list = make(panel, "ul", {class: "scores"});
      const values = clip.labels.map((label, line) => {
        const item = make(list, "li"), key = make(item, "svg", {viewBox: "0 0 30 10", "aria-hidden": "true"});
        make(key, "line", {x1: 0, x2: 30, y1: 5, y2: 5, stroke: label.isTrue ? model.colour : "currentColor",
          "stroke-width": label.isTrue ? 4 : 1.8, "stroke-dasharray": label.isTrue ? "" : DASHES[line % DASHES.length]});
        item.append(` ${label.name}${label.isTrue ? " (true)" : ""} `);
        return make(item, "span");
      });
      return {model, panel, canvas, said, cursor, values};
    });
    this.show();
  }

  show(frame = this.frame) {
    const clip = this.clips[this.clip];
    this.frame = Math.max(0, Math.min(clip.frames.length - 1, frame));
    this.slider.value = this.frame;
    this.output.textContent =
      `frame ${this.frame + 1} of ${clip.frames.length}, ${clip.seconds[this.frame].toFixed(2)} s`;
    const truth = clip.truth[this.frame];
    this.truth.textContent = clip.labels.some(label => label.isTrue)
      ? `True class: ${truth || "none in this frame"}` : "The true class is unknown.";
    for (const {model, panel, canvas, said, cursor, values} of this.parts) {
      panel.hidden = this.hidden.has(model.name);
      const image = this.images[this.frame], cells = model.cells[this.frame], right = model.isRight[this.frame];
      if (image.complete && image.naturalWidth) drawFrame(canvas, image, model, this.frame, clip.grid);
      const looks = cells ? `looked at the cells ${cells.map(cell =>
        `row ${Math.floor(cell / clip.grid) + 1} column ${cell % clip.grid + 1}`).join(", ")}` : "saw the whole frame";
      canvas.setAttribute("aria-label", `${model.name} ${looks}`);
      said.textContent = `${right === null ? "" : right ? "✓ " : "✗ "}${model.said[this.frame]}`;
      said.className = `said ${right === null ? "" : right ? "right" : "wrong"}`;
      cursor(this.frame);
      values.forEach((value, label) => { value.textContent = model.scores[label][this.frame].toFixed(2); });
    }
  }

  step(by) { this.stop(); this.show(this.frame + by); }

  toggle() {
    if (this.timer) return this.stop();
    const clip = this.clips[this.clip];
    if (this.frame === clip.frames.length - 1) this.show(0);
    this.play.textContent = "❚❚ Pause";
    this.timer = setInterval(() => {
      this.show(this.frame + 1);
      if (this.frame === clip.frames.length - 1) this.stop();
    }, 1000 / clip.rate);
  }

  stop() { clearInterval(this.timer); this.timer = null; this.play.textContent = "▶ Play"; }

  key(event) {
    const steps = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity};
    if (event.key in steps) this.step(steps[event.key]);
    else if (event.key === " ") this.toggle();
    else return;
    event.preventDefault();
  }
}

document.querySelectorAll(".viewer").forEach(root => new Viewer(root));
document.addEventListener("keydown", event => {
  const busy = event.target.closest("select, button, summary, a, input[type=checkbox], video");
  if (!Viewer.current || event.ctrlKey || event.metaKey || event.altKey || busy) return;
  Viewer.current.key(event);
});
