// The lists at the side: segments by size, and the places that were written into the page.

const ROWS = 200; // shown at once; the search reaches the rest

function sizeText(voxels) {
  if (voxels < 10000) return String(voxels);
  if (voxels < 1e6) return `${(voxels / 1e3).toFixed(0)} k`;
  return `${(voxels / 1e6).toFixed(2)} M`;
}

function swatch(layer, number) {
  const rgb = number ? layer.colours.slice(3 * number, 3 * number + 3).join(" ") : "0 0 0 / 0%";
  return `<span class="swatch" style="background:rgb(${rgb})"></span>`;
}

class Lists {
  constructor(app) {
    this.app = app;
    this.list = document.getElementById("list");
    this.search = document.getElementById("search");
    this.tab = app.points.length ? "points" : "segments";
    this.search.addEventListener("input", () => this.draw());
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.found();
      if (event.key === "Escape") this.search.blur();
      event.stopPropagation();
    });
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (!row) return;
      if (this.tab === "points") app.go(app.points[+row.dataset.point].inside);
      else this.goTo(+row.dataset.number, event.shiftKey || event.ctrlKey || event.metaKey);
    });
    document.getElementById("clear").addEventListener("click", () => app.clear());
  }

  // Pick a segment and go there; with a key held, besides those that are picked.
  goTo(number, besides) {
    const { app } = this;
    const layer = app.layer();
    const again = layer.picked.has(number);
    if (!besides) layer.picked.clear();
    if (again) layer.picked.delete(number);
    else layer.picked.add(number);
    app.changedPicks();
    const place = again ? null : insideOf(layer, number);
    if (place) app.go(place);
  }

  matching() {
    const layer = this.app.layer();
    const wanted = this.search.value.trim();
    if (!wanted) return layer.order;
    const exact = layer.order.filter((number) => layer.ids[number] === wanted);
    const rest = layer.order.filter((n) => layer.ids[n] !== wanted && layer.ids[n].startsWith(wanted));
    return exact.concat(rest);
  }

  found() {
    const layer = this.app.layer();
    const [first] = this.matching();
    this.search.setCustomValidity(first === undefined ? "no such id" : "");
    this.search.reportValidity();
    if (first === undefined) return;
    layer.picked.delete(first);
    this.goTo(first, false);
  }

  draw() {
    const { app } = this;
    const layer = app.layer();
    const segments = this.tab === "segments";
    const tabs = [["segments", `${layer.name === "labels" ? "Objects" : "Segments"} (${layer.order.length})`]];
    if (app.points.length) tabs.push(["points", `Places (${app.points.length})`]);
    const row = document.getElementById("tabs");
    if (tabs.length === 1) row.innerHTML = `<span class="heading">${tabs[0][1]}</span>`;
    else buttons(row, tabs, this.tab, (tab) => {
      this.tab = tab;
      this.draw();
    });
    document.getElementById("search-row").hidden = !segments;
    document.getElementById("picked-row").hidden = !segments;
    const picked = [...layer.picked];
    document.getElementById("picked").textContent = picked.length === 1
      ? `picked: ${layer.ids[picked[0]]}` : picked.length ? `${picked.length} picked` : "none picked";
    if (segments) this.drawSegments(layer);
    else this.drawPoints();
  }

  drawSegments(layer) {
    const numbers = this.matching();
    const head = '<div class="more"><span>id</span><span>voxels</span></div>';
    const rows = numbers.slice(0, ROWS).map((number) => `<div class="row
      ${layer.picked.has(number) ? "on" : ""}" data-number="${number}">${swatch(layer, number)}
      <span class="id">${layer.ids[number]}</span>
      <span class="size">${sizeText(layer.sizes[number])}</span></div>`);
    if (numbers.length > ROWS) rows.push(`<div class="more">and ${numbers.length - ROWS} smaller ones</div>`);
    if (!numbers.length) rows.push('<div class="more">no such id</div>');
    this.list.innerHTML = head + rows.join("");
  }

  drawPoints() {
    this.list.replaceChildren(...this.app.points.map((point, number) => {
      const row = document.createElement("div");
      row.className = "row";
      row.dataset.point = number;
      row.innerHTML = `<span class="number">${number + 1}</span><span class="id"></span>
        <span class="where">${point.place.join(", ")}</span>`;
      row.querySelector(".id").textContent = point.text;
      return row;
    }));
  }
}

// A row of buttons of which one is on.
function buttons(node, choices, chosen, choose) {
  node.replaceChildren(...choices.map(([value, text]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.classList.toggle("on", value === chosen);
    button.setAttribute("aria-pressed", value === chosen);
    button.addEventListener("click", () => choose(value));
    return button;
  }));
}
