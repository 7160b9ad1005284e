// Three sections through one cross, in one scale and side by side so that their axes line up.

const PLANES = {
  xy: { u: 2, v: 1, n: 0 },
  yz: { u: 0, v: 1, n: 2 },
  xz: { u: 2, v: 0, n: 1 },
};
const COLOURS = ["#7db8ff", "#7ce08b", "#ff8f85"]; // of the axes z, y, x
const CLICK = 4; // pixels that a click may move
const CLOSE = 2.5; // sections before and after a point in which it is drawn

class Panel {
  constructor(name, app) {
    this.name = name;
    this.plane = PLANES[name];
    this.app = app;
    this.node = document.getElementById(name);
    this.canvas = this.node.querySelector("canvas");
    this.label = this.node.querySelector(".name");
    this.rawKey = "";
    this.listen();
  }

  // The part of the volume that is seen: pixels of the page per voxel, and where voxel 0 begins.
  get view() {
    const { u, v } = this.plane;
    const { centre, scale } = this.app.state;
    const [perU, perV] = [sides[u] * scale, sides[v] * scale];
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return {
      width, height, perU, perV,
      left: width / 2 - centre[u] * perU,
      top: height / 2 - centre[v] * perV,
    };
  }

  placeAt(event) {
    const { u, v, n } = this.plane;
    const view = this.view;
    const box = this.canvas.getBoundingClientRect();
    const place = [0, 0, 0];
    place[u] = Math.floor((event.clientX - box.left - view.left) / view.perU);
    place[v] = Math.floor((event.clientY - box.top - view.top) / view.perV);
    place[n] = this.app.state.cross[n];
    const inside = place.every((p, axis) => p >= 0 && p < shape[axis]);
    return { place, inside };
  }

  draw() {
    const { state, data } = this.app;
    const { u, v, n } = this.plane;
    const density = window.devicePixelRatio || 1;
    const view = this.view;
    const width = Math.max(1, Math.round(view.width * density));
    const height = Math.max(1, Math.round(view.height * density));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    const at = state.cross[n];
    const box = [view.left, view.top, shape[u] * view.perU, shape[v] * view.perV];
    if (data.raw && state.raw) {
      const key = [at, state.black, state.white].join();
      if (key !== this.rawKey) {
        this.rawKey = key;
        this.section = rawSection(data.raw, this.plane, at, [state.black, state.white]);
      }
      context.imageSmoothingEnabled = Math.min(view.perU, view.perV) * density < 1;
      context.imageSmoothingQuality = "high";
      context.drawImage(this.section, ...box);
    } else {
      context.fillStyle = `rgb(${NO_RAW.join(" ")})`;
      context.fillRect(...box);
    }
    this.drawNumbers(context, { width, height, view, density, at });
    this.drawMarks(context, view);
    const full = toSource(state.cross);
    this.label.innerHTML = `${this.name} &nbsp;<span class="${AXES[n]}">${AXES[n]} ${full[n]}</span>`;
  }

  drawNumbers(context, { width, height, view, density, at }) {
    const { u, v } = this.plane;
    const { state, data } = this.app;
    const table = this.app.paints();
    const outlined = state.truthLines && data.layers.labels;
    if (!table && !outlined) return;
    if (!this.image || this.image.width !== width || this.image.height !== height) {
      this.over = new OffscreenCanvas(width, height);
      this.image = context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
      this.numbers = new Int32Array(width * height);
    }
    const across = voxelsAlong(width, {
      start: -view.left / view.perU, perPixel: 1 / (view.perU * density), side: shape[u],
    });
    const down = voxelsAlong(height, {
      start: -view.top / view.perV, perPixel: 1 / (view.perV * density), side: shape[v],
    });
    const shown = (value) => numbersShown(value, this.plane, at, across, down, this.numbers);
    const reach = Math.max(1, Math.round(density));
    if (table) {
      paintNumbers(this.pixels, shown(this.app.numberAt()), width, table, {
        linesOnly: state.linesOnly, reach,
      });
    } else {
      this.pixels.fill(0);
    }
    if (outlined) {
      const { index } = data.layers.labels;
      outline(this.pixels, shown((voxel) => index[voxel]), width);
    }
    const over = this.over.getContext("2d");
    over.putImageData(this.image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.over, 0, 0, view.width, view.height);
  }

  drawMarks(context, view) {
    const { u, v, n } = this.plane;
    const { state } = this.app;
    const spot = (place) => [
      view.left + (place[u] + 0.5) * view.perU, view.top + (place[v] + 0.5) * view.perV,
    ];
    if (state.crossOn) {
      const [x, y] = spot(state.cross).map((p) => Math.round(p - 0.5) + 0.5);
      context.lineWidth = 1;
      for (const [axis, from, to, gap] of [
        [v, [0, y], [view.width, y], [1, 0]], [u, [x, 0], [x, view.height], [0, 1]],
      ]) {
        context.strokeStyle = COLOURS[axis === v ? u : v];
        context.globalAlpha = 0.75;
        context.beginPath(); // open in the middle, so that the voxel is seen
        context.moveTo(...from);
        context.lineTo(x - 7 * gap[0], y - 7 * gap[1]);
        context.moveTo(x + 7 * gap[0], y + 7 * gap[1]);
        context.lineTo(...to);
        context.stroke();
      }
      context.globalAlpha = 1;
    }
    this.app.points.forEach((point, number) => {
      const far = Math.abs(point.inside[n] - state.cross[n]);
      if (far > CLOSE) return;
      ring(context, spot(point.inside), { text: String(number + 1), faint: far > 0.5 });
    });
    if (told.voxelSize) scaleBar(context, view, state.scale);
  }

  listen() {
    const { canvas, app } = this;
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      from = { x: event.clientX, y: event.clientY, centre: app.state.centre.slice(), moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (from) {
        const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
        from.moved ||= Math.hypot(dx, dy) > CLICK;
        if (from.moved) {
          this.node.classList.add("dragging");
          const view = this.view;
          const centre = from.centre.slice();
          centre[this.plane.u] -= dx / view.perU;
          centre[this.plane.v] -= dy / view.perV;
          app.set({ centre });
        }
      }
      app.point(this.placeAt(event));
    });
    canvas.addEventListener("pointerup", (event) => {
      const { place, inside } = this.placeAt(event);
      if (from && !from.moved && inside) app.set({ cross: place });
      from = null;
      this.node.classList.remove("dragging");
    });
    canvas.addEventListener("pointercancel", () => {
      from = null;
      this.node.classList.remove("dragging");
    });
    canvas.addEventListener("dblclick", (event) => {
      const { place, inside } = this.placeAt(event);
      if (inside) app.pickAt(place);
    });
    canvas.addEventListener("pointerleave", () => app.point(null));
    let turned = 0;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const delta = event.deltaY * (event.deltaMode === 0 ? 1 : 33) || event.deltaX;
      if (event.ctrlKey || event.metaKey) {
        app.zoom(Math.exp(-clamp(delta, -60, 60) * 0.006), this.under(event), this.plane);
        return;
      }
      // A notch of a wheel is a section; a touch pad sends many small steps.
      turned = Math.abs(delta) >= 50 ? Math.sign(delta) * 30 : turned + delta;
      const steps = Math.trunc(turned / 30);
      turned -= steps * 30;
      if (steps) app.step(this.plane.n, steps * (event.shiftKey ? 10 : 1));
      app.point(this.placeAt(event));
    }, { passive: false });
  }

  // The voxel under the pointer, as fractions, to stay there while the scale changes.
  under(event) {
    const { u, v } = this.plane;
    const view = this.view;
    const box = this.canvas.getBoundingClientRect();
    const place = this.app.state.centre.slice();
    place[u] = (event.clientX - box.left - view.left) / view.perU;
    place[v] = (event.clientY - box.top - view.top) / view.perV;
    return place;
  }
}

function ring(context, [x, y], { text, faint }) {
  context.globalAlpha = faint ? 0.45 : 1;
  for (const [colour, line] of [["#000", 4], ["#ffd54a", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.beginPath();
    context.arc(x, y, 10, 0, 2 * Math.PI);
    context.stroke();
  }
  outlined(context, text, x + 12, y - 8, "#ffd54a");
  context.globalAlpha = 1;
}

function outlined(context, text, x, y, colour) {
  context.font = "600 12px system-ui, 'DejaVu Sans', sans-serif";
  context.lineJoin = "round";
  context.lineWidth = 3;
  context.strokeStyle = "rgb(0 0 0 / 80%)";
  context.strokeText(text, x, y);
  context.fillStyle = colour;
  context.fillText(text, x, y);
}

// A round length of at most a third of the panel.
function scaleBar(context, view, scale) {
  const target = Math.min(view.width / 3, 160) / scale;
  const power = 10 ** Math.floor(Math.log10(target));
  const length = [1, 2, 5].map((f) => f * power).filter((l) => l <= target).pop();
  const text = length >= 1000 ? `${length / 1000} \u00b5m` : `${+length.toPrecision(3)} nm`;
  const [x, y] = [10, view.height - 12];
  context.fillStyle = "rgb(0 0 0 / 80%)";
  context.fillRect(x - 1.5, y - 1.5, length * scale + 3, 6);
  context.fillStyle = "#fff";
  context.fillRect(x, y, length * scale, 3);
  outlined(context, text, x, y - 5, "#fff");
}

// Room for the panels: xz and yz as deep as the volume is, within bounds.
function layOut(node) {
  const [deep, tall, wide] = shape.map((side, axis) => side * sides[axis]);
  const { clientWidth: width, clientHeight: height } = node;
  const scale = Math.min(width / (wide + deep), height / (tall + deep));
  const right = clamp((deep * scale) / width, 0.15, 0.42);
  const below = clamp((deep * scale) / height, 0.15, 0.42);
  node.style.gridTemplateColumns = `minmax(0, ${1 - right}fr) minmax(0, ${right}fr)`;
  node.style.gridTemplateRows = `minmax(0, ${1 - below}fr) minmax(0, ${below}fr)`;
}
