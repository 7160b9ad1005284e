// The state of the page, what changes it, and when it is drawn.

const VIEWS = {
  segmentation: "Segments", labels: "Truth", errors: "Errors", none: "None",
};
const by = (id) => document.getElementById(id);

class App {
  constructor(data) {
    this.data = data;
    this.points = told.points.map((point) => ({ ...point, inside: fromSource(point.place) }));
    const [black, white] = told.window || [0, 255];
    this.state = {
      cross: shape.map((side) => Math.floor(side / 2)),
      centre: shape.map((side) => side / 2),
      scale: 1,
      view: "segmentation",
      last: "segmentation",
      opacity: data.raw ? 0.4 : 1,
      raw: Boolean(data.raw),
      linesOnly: false,
      truthLines: false,
      crossOn: true,
      isolate: false,
      black,
      white,
    };
    this.pointer = null;
    this.lists = new Lists(this);
    this.panels = Object.keys(PLANES).map((name) => new Panel(name, this));
    this.controls();
    this.keys();
    layOut(by("panels"));
    this.fit();
    const watch = new ResizeObserver(() => this.resized());
    [by("panels"), ...this.panels.map((panel) => panel.canvas)].forEach((node) => watch.observe(node));
    this.fromHash();
    this.lists.draw();
  }

  // The layer whose ids are picked and listed.
  layer() {
    return this.data.layers[this.state.view === "labels" ? "labels" : "segmentation"];
  }

  numberAt() {
    const { layers } = this.data;
    if (this.state.view === "errors") {
      return (voxel) => errorKind(layers.segmentation, layers.labels, voxel);
    }
    const { index } = this.layer();
    return (voxel) => index[voxel];
  }

  paints() {
    const { view, isolate, raw, opacity } = this.state;
    if (view === "none") return null;
    const alpha = raw ? opacity : 1;
    const key = [view, alpha, isolate, this.picks].join();
    if (key !== this.paintKey) {
      this.paintKey = key;
      this.table = view === "errors" ? errorPaints(alpha) : paints(this.layer(), { alpha, isolate });
    }
    return this.table;
  }

  set(changes) {
    if (changes.cross) {
      changes.cross = changes.cross.map((p, axis) => clamp(p, 0, shape[axis] - 1));
    }
    Object.assign(this.state, changes);
    if (changes.cross && this.panels) this.follow();
    if (changes.view || "isolate" in changes) this.lists.draw();
    this.drawSoon();
  }

  drawSoon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    this.panels.forEach((panel) => panel.draw());
    this.showControls();
    this.showPointer();
    clearTimeout(this.hashTimer);
    this.hashTimer = setTimeout(() => this.toHash(), 400);
  }

  resized() {
    layOut(by("panels"));
    if (this.fitted) this.fit();
    this.draw(); // at once: the old pixels would be seen stretched
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = by("xy");
    this.fitted = true;
    this.set({
      centre: shape.map((side) => side / 2),
      scale: 0.98 * Math.min(width / (shape[2] * sides[2]), height / (shape[1] * sides[1])),
    });
  }

  zoom(factor, fixed, plane) {
    const { scale, centre } = this.state;
    const finest = Math.min(...sides);
    const next = clamp(scale * factor, 20 / Math.max(...shape.map((s, a) => s * sides[a])), 60 / finest);
    this.fitted = false;
    const axes = plane ? [plane.u, plane.v] : [0, 1, 2];
    this.set({
      scale: next,
      centre: centre.map((c, axis) =>
        (axes.includes(axis) ? fixed[axis] + ((c - fixed[axis]) * scale) / next : c)),
    });
  }

  step(axis, count) {
    const cross = this.state.cross.slice();
    cross[axis] += count;
    this.set({ cross });
  }

  // Move the view along the axes in which a panel has lost the cross.
  follow() {
    const { cross, centre } = this.state;
    for (const { plane, view } of this.panels) {
      for (const [axis, start, per, size] of [
        [plane.u, view.left, view.perU, view.width], [plane.v, view.top, view.perV, view.height],
      ]) {
        const at = start + (cross[axis] + 0.5) * per;
        if (at < 0 || at > size) centre[axis] = cross[axis] + 0.5;
      }
    }
  }

  // Show a place in the middle, unless the whole volume is in view.
  go(place) {
    const centre = place.map((p) => p + 0.5);
    this.set({ cross: place, ...(this.fitted ? {} : { centre }) });
  }

  pickAt(place) {
    const layer = this.layer();
    const number = layer.index[voxelAt(place)];
    if (!number) return;
    if (!layer.picked.delete(number)) layer.picked.add(number);
    this.changedPicks();
  }

  clear() {
    this.layer().picked.clear();
    this.changedPicks();
  }

  changedPicks() {
    this.picks = (this.picks || 0) + 1;
    this.lists.draw();
    this.drawSoon();
  }

  point(found) {
    this.pointer = found && found.inside ? found.place : null;
    this.showPointer();
  }

  controls() {
    by("place").innerHTML = AXES.map((axis, a) => `<label class="line"><b class="${axis}">${axis}</b>
      <input type="range" id="slide-${axis}" min="0" max="${shape[a] - 1}" aria-label="section ${axis}">
      <input type="number" id="at-${axis}" aria-label="voxel ${axis}"></label>`).join("")
      + '<div class="nm" id="nm"></div>';
    AXES.forEach((axis, a) => {
      const to = (p) => this.set({ cross: this.state.cross.map((c, b) => (a === b ? p : c)) });
      by(`slide-${axis}`).addEventListener("input", (event) => to(+event.target.value));
      by(`at-${axis}`).addEventListener("change", (event) => {
        const wanted = toSource(this.state.cross);
        wanted[a] = Math.round(+event.target.value);
        this.go(fromSource(wanted));
      });
    });
    const on = (id, key, read) => by(id).addEventListener("input", (event) =>
      this.set({ [key]: read(event.target) }));
    on("opacity", "opacity", (node) => node.value / 100);
    on("black", "black", (node) => Math.min(+node.value, this.state.white - 1));
    on("white", "white", (node) => Math.max(+node.value, this.state.black + 1));
    on("raw-on", "raw", (node) => node.checked);
    on("lines-only", "linesOnly", (node) => node.checked);
    on("truth-lines", "truthLines", (node) => node.checked);
    on("cross-on", "crossOn", (node) => node.checked);
    on("isolate", "isolate", (node) => node.checked);
    const there = { raw: this.data.raw, labels: this.data.layers.labels };
    document.querySelectorAll("[data-needs]").forEach((node) => {
      node.hidden = !there[node.dataset.needs];
    });
    by("help-sheet").innerHTML = by("keys").innerHTML;
    by("help").addEventListener("click", () => this.help());
    this.facts();
  }

  help() {
    by("help-sheet").hidden = !by("help-sheet").hidden;
  }

  facts() {
    const lengths = told.full.map((side, axis) => (told.voxelSize ? side * told.voxelSize[axis] : 0));
    const parts = [`${told.full.join(" x ")} voxels (z, y, x)`];
    if (told.voxelSize) {
      parts.push(`of ${told.voxelSize.join(" x ")} nm`);
      parts.push(`= ${lengths.map((l) => +(l / 1000).toPrecision(3)).join(" x ")} \u00b5m`);
    } else {
      parts.push("of unknown size");
    }
    if (told.origin.some((o) => o)) parts.push(`from ${told.origin.join(", ")}`);
    by("facts").textContent = parts.join(" ");
    if (told.factors.some((f) => f > 1)) {
      by("thinned").textContent = `thinned: 1 voxel here = ${told.factors.join(" x ")} (z, y, x)`;
      by("thinned").title = "The volume was too large for one page; ids are those of the middle "
        + "voxels, the raw image is their mean, sizes are estimates.";
      by("thinned").hidden = false;
    }
  }

  showControls() {
    const { state } = this;
    const views = Object.entries(VIEWS).filter(([view]) =>
      view === "none" || this.data.layers[view] || (view === "errors" && told.errors));
    if (this.viewShown !== state.view) {
      this.viewShown = state.view;
      buttons(by("views"), views, state.view, (view) => this.show(view));
      this.legend();
    }
    const full = toSource(state.cross);
    AXES.forEach((axis, a) => {
      by(`slide-${axis}`).value = state.cross[a];
      if (document.activeElement !== by(`at-${axis}`)) by(`at-${axis}`).value = full[a];
    });
    by("nm").textContent = told.voxelSize
      ? `${full.map((p, a) => +(p * told.voxelSize[a]).toFixed(1)).join(", ")} nm (z, y, x)` : "";
    by("opacity").value = Math.round(state.opacity * 100);
    by("opacity").disabled = !state.raw;
    by("opacity-text").textContent = `${Math.round((state.raw ? state.opacity : 1) * 100)} %`;
    for (const name of ["black", "white"]) {
      by(name).value = state[name];
      by(`${name}-text`).textContent = state[name];
    }
    by("raw-on").checked = state.raw;
    by("lines-only").checked = state.linesOnly;
    by("truth-lines").checked = state.truthLines;
    by("cross-on").checked = state.crossOn;
    by("isolate").checked = state.isolate;
  }

  show(view) {
    this.set({ view, ...(view === "none" ? {} : { last: view }) });
  }

  legend() {
    const { view } = this.state;
    const texts = {
      segmentation: told.errors
        ? "A segment has the colour of the object it is the largest part of, else one of its own"
        : "A colour for each segment; background is not painted",
      labels: "A colour for each object of the ground truth; background is not painted",
      none: "Overlay off: space brings it back",
    };
    by("legend").innerHTML = texts[view] || ERRORS.filter((e) => e.rgb).map((e) =>
      `<span class="swatch" style="background:rgb(${e.rgb.join(" ")})"></span> ${e.name}`).join(" &nbsp; ");
  }

  showPointer() {
    const place = this.pointer || this.state.cross;
    const voxel = voxelAt(place);
    const full = toSource(place);
    const { segmentation, labels } = this.data.layers;
    const parts = [
      `<span class="soft">${this.pointer ? "pointer" : "cross"}</span>
       z <b>${full[0]}</b> y <b>${full[1]}</b> x <b>${full[2]}</b>`,
    ];
    if (told.voxelSize) {
      parts.push(`<span class="soft">${full.map((p, a) =>
        +(p * told.voxelSize[a]).toFixed(1)).join(", ")} nm</span>`);
    }
    const said = (name, layer) => {
      const number = layer.index[voxel];
      return `${name} ${number ? swatch(layer, number) : ""} <b>${layer.ids[number]}</b>`;
    };
    parts.push(said("segment", segmentation));
    if (labels) parts.push(said("truth", labels));
    if (told.errors) {
      const kind = errorKind(segmentation, labels, voxel);
      if (kind) parts.push(ERRORS[kind].name);
    }
    if (this.data.raw) parts.push(`<span class="soft">raw ${this.data.raw[voxel]}</span>`);
    by("pointer").innerHTML = parts.join(" &nbsp; ");
  }

  keys() {
    const moves = {
      ArrowLeft: [2, -1], ArrowRight: [2, 1], ArrowUp: [1, -1], ArrowDown: [1, 1],
      PageUp: [0, -1], PageDown: [0, 1], ",": [0, -1], ".": [0, 1],
    };
    const { state } = this;
    const acts = {
      " ": () => this.set({ view: state.view === "none" ? state.last : "none" }),
      "+": () => this.zoom(1.25, state.cross),
      "=": () => this.zoom(1.25, state.cross),
      "-": () => this.zoom(0.8, state.cross),
      0: () => this.fit(),
      b: () => this.set({ linesOnly: !state.linesOnly }),
      r: () => this.data.raw && this.set({ raw: !state.raw }),
      i: () => this.set({ isolate: !state.isolate }),
      Escape: () => (by("help-sheet").hidden ? this.clear() : this.help()),
      "?": () => this.help(),
      "/": () => by("search").focus(),
    };
    Object.keys(VIEWS).filter((v) => v !== "errors" || told.errors).forEach((view, i) => {
      if (view === "none" || this.data.layers[view] || view === "errors") {
        acts[String(i + 1)] = () => this.show(view);
      }
    });
    window.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.target.matches("input[type=number]")) return;
      const move = moves[event.key];
      const act = acts[event.key];
      if (!move && !act) return;
      event.preventDefault(); // else space presses the button that was clicked last
      if (move) this.step(move[0], move[1] * (event.shiftKey ? 10 : 1));
      else act();
    });
  }

  // The address keeps the place: #at=z,y,x&view=errors&id=7 can be sent along with the file.
  fromHash() {
    const words = new URLSearchParams(window.location.hash.slice(1));
    const at = (words.get("at") || "").split(",").map(Number);
    if (at.length === 3 && at.every(Number.isFinite)) this.set({ cross: fromSource(at) });
    const view = words.get("view");
    if (view === "none" || this.data.layers[view] || (view === "errors" && told.errors)) this.show(view);
    const layer = this.layer();
    for (const id of words.getAll("id")) {
      const number = layer.ids.indexOf(id);
      if (number > 0) layer.picked.add(number);
    }
    if (layer.picked.size) this.changedPicks();
  }

  toHash() {
    const layer = this.layer();
    const words = [`at=${toSource(this.state.cross).join()}`, `view=${this.state.view}`];
    for (const number of [...layer.picked].slice(0, 20)) words.push(`id=${layer.ids[number]}`);
    try {
      window.history.replaceState(null, "", `#${words.join("&")}`);
    } catch {
      // Some browsers refuse this for files; the page works without it.
    }
  }
}

unpackAll().then((data) => {
  const app = new App(data);
  app.draw();
  document.body.dataset.state = "ready";
}).catch((error) => {
  document.body.dataset.state = "failed";
  by("message").textContent = `This page cannot show its volume: ${error.message}`;
});
