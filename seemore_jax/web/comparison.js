// The element <seemore-comparison data-view="…">: a picture, bicubic on the left of a line and SeemoRe on its right.
//
// data-view is JSON that `cards.py` writes: the size of the picture in pixels, and where its tiles are (`tiles.py`).
// The picture is first shown at 1:1, one of its pixels for each pixel of the screen, around its centre.

const LARGEST_ZOOM = 16;
const TILES_KEPT = 200; // decoded tiles of 4 MB
const KEY_STEP = 0.1; // the part of the view by which an arrow key moves the picture

const CONTENT = `
  <div class="stage" tabindex="0" role="group">
    <canvas role="img"></canvas>
    <span class="layer before" aria-hidden="true">Bicubic</span>
    <span class="layer after" aria-hidden="true">SeemoRe</span>
    <div class="line" aria-hidden="true"></div>
    <input type="range" min="0" max="100" step="0.1" value="50" aria-label="Line between bicubic and SeemoRe">
  </div>
  <div class="tools" role="group" aria-label="Zoom">
    <button type="button" data-zoom="out" aria-label="Zoom out">−</button>
    <output aria-label="Zoom"></output>
    <button type="button" data-zoom="in" aria-label="Zoom in">+</button>
    <button type="button" data-zoom="actual" title="One pixel of the picture for each pixel of the screen">1:1</button>
    <button type="button" data-zoom="whole">Whole picture</button>
    <button type="button" class="fullscreen" data-zoom="full">Full screen</button>
  </div>
  <p class="hint">
    <span class="mouse">Drag the line to compare, and the picture to move it. Ctrl and the wheel zoom. With the keyboard:
    arrow keys move the line or the picture, whichever you reached with Tab; + and − zoom.</span>
    <span class="touch">Drag the line to compare, and the picture to move it. Two fingers zoom.</span>
  </p>`;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

class Comparison extends HTMLElement {
  connectedCallback() {
    if (this.view) return;
    this.view = JSON.parse(this.dataset.view);
    this.innerHTML = CONTENT;
    this.stage = this.querySelector(".stage");
    this.canvas = this.querySelector("canvas");
    this.line = this.querySelector("input");
    this.stage.setAttribute("aria-label", `${this.view.name}: arrow keys move the picture, + and − zoom`);
    this.canvas.setAttribute("aria-label", `${this.view.name}, enlarged: bicubic left of the line, SeemoRe right of it`);
    this.levels = Math.max(0, Math.ceil(Math.log2(Math.max(this.view.width, this.view.height) / this.view.tile))) + 1;
    this.tiles = new Map(); // the tiles that were asked for, by their address; the last one was used last
    this.pointers = new Map(); // the fingers or the mouse on the picture, by their number
    this.zoom = 0; // pixels of the screen for each pixel of the picture; 0 before the first view
    this.center = { x: this.view.width / 2, y: this.view.height / 2 };
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.stage);
  }

  listen() {
    this.line.addEventListener("input", () => this.redraw());
    this.line.addEventListener("keydown", (event) => this.moveLine(event));
    this.stage.addEventListener("keydown", (event) => this.press(event));
    this.stage.addEventListener("wheel", (event) => this.turnWheel(event), { passive: false });
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) {
      this.stage.addEventListener(kind, (event) => this.point(event));
    }
    for (const button of this.querySelectorAll("button")) {
      button.addEventListener("click", () => this.choose(button.dataset.zoom));
    }
    this.querySelector(".fullscreen").hidden = !document.fullscreenEnabled;
  }

  // The size of the stage in pixels of the screen.
  resize() {
    const pixels = window.devicePixelRatio;
    this.canvas.width = Math.round(this.stage.clientWidth * pixels);
    this.canvas.height = Math.round(this.stage.clientHeight * pixels);
    if (!this.canvas.width || !this.canvas.height) return;
    // 1:1; a picture that would be much smaller than the stage is magnified by a whole number.
    if (!this.zoom) this.zoom = clamp(Math.floor(this.whole()), 1, LARGEST_ZOOM);
    this.redraw();
  }

  // The zoom at which the whole picture fits the stage.
  whole() {
    return Math.min(this.canvas.width / this.view.width, this.canvas.height / this.view.height);
  }

  choose(what) {
    if (what === "full") {
      if (document.fullscreenElement) document.exitFullscreen();
      else this.requestFullscreen();
      return;
    }
    const doubled = 2 ** Math.floor(Math.log2(this.zoom) + 1.01);
    const halved = 2 ** Math.ceil(Math.log2(this.zoom) - 1.01);
    this.setZoom({ in: doubled, out: halved, actual: 1, whole: this.whole() }[what]);
  }

  // Zooms, so that the pixel of the picture at a place of the canvas stays there; by default, that in the centre.
  setZoom(zoom, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const least = Math.min(1, this.whole());
    const old = this.zoom;
    this.zoom = clamp(zoom, least, LARGEST_ZOOM);
    const change = 1 / old - 1 / this.zoom;
    this.move((x - this.canvas.width / 2) * change, (y - this.canvas.height / 2) * change);
  }

  // Moves the view over the picture, by pixels of the picture.
  move(x, y) {
    this.center.x += x;
    this.center.y += y;
    this.redraw();
  }

  press(event) {
    if (event.target !== this.stage && event.key.startsWith("Arrow")) return; // the line's own keys
    const { width, height } = this.canvas;
    const step = KEY_STEP / this.zoom;
    const action = {
      ArrowLeft: () => this.move(-width * step, 0),
      ArrowRight: () => this.move(width * step, 0),
      ArrowUp: () => this.move(0, -height * step),
      ArrowDown: () => this.move(0, height * step),
      "+": () => this.choose("in"),
      "=": () => this.choose("in"),
      "-": () => this.choose("out"),
      1: () => this.choose("actual"),
      0: () => this.choose("whole"),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  }

  // The line moves by 1 %, with Shift by 10 %: its own step is for the mouse.
  moveLine(event) {
    const direction = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    this.line.value = Number(this.line.value) + direction * (event.shiftKey ? 10 : 1);
    this.redraw();
  }

  // Without Ctrl, the wheel scrolls the page. Browsers report the gesture of two fingers on a touchpad as Ctrl and wheel.
  turnWheel(event) {
    if (!event.ctrlKey && document.fullscreenElement !== this) return;
    event.preventDefault();
    const place = this.place(event);
    this.setZoom(this.zoom * 2 ** (-event.deltaY / 200), place.x, place.y);
  }

  // One finger or the mouse moves the picture, two fingers zoom.
  point(event) {
    if (event.target === this.line) return;
    const old = this.pointers.get(event.pointerId);
    if (event.type === "pointerdown") {
      this.pointers.set(event.pointerId, this.place(event));
      this.stage.setPointerCapture(event.pointerId);
    } else if (event.type !== "pointermove") {
      this.pointers.delete(event.pointerId);
    } else if (old) {
      const now = this.place(event);
      const other = [...this.pointers].find(([number]) => number !== event.pointerId)?.[1];
      if (other) {
        const distance = (place) => Math.hypot(place.x - other.x, place.y - other.y);
        this.setZoom((this.zoom * distance(now)) / Math.max(1, distance(old)), other.x, other.y);
      } else {
        this.move((old.x - now.x) / this.zoom, (old.y - now.y) / this.zoom);
      }
      this.pointers.set(event.pointerId, now);
    }
  }

  // Where an event is, in pixels of the canvas.
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const pixels = this.canvas.width / box.width;
    return { x: (event.clientX - box.left) * pixels, y: (event.clientY - box.top) * pixels };
  }

  redraw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    this.center.x = this.kept(this.center.x, this.view.width, width);
    this.center.y = this.kept(this.center.y, this.view.height, height);
    const split = Number(this.line.value);
    const edge = Math.round((width * split) / 100);
    context.clearRect(0, 0, width, height);
    this.drawLayer(context, this.view.before, 0, edge);
    this.drawLayer(context, this.view.after, edge, width);
    this.style.setProperty("--split", `${split}%`);
    this.line.setAttribute("aria-valuetext", `${Math.round(split)} % bicubic`);
    this.querySelector("output").textContent = `${Math.round(this.zoom * 100)} %`;
    while (this.tiles.size > TILES_KEPT) this.tiles.delete(this.tiles.keys().next().value);
  }

  // A centre at which no space is left beside the picture; the middle if the whole side fits.
  kept(center, side, view) {
    const half = view / 2 / this.zoom;
    return 2 * half >= side ? side / 2 : clamp(center, half, side - half);
  }

  // Draws the part of a layer between two columns of the canvas: first the coarsest level, then the one that is wanted.
  drawLayer(context, layer, left, right) {
    if (left >= right) return;
    const wanted = clamp(Math.floor(Math.log2(1 / this.zoom)), 0, this.levels - 1);
    context.save();
    context.beginPath();
    context.rect(left, 0, right - left, this.canvas.height);
    context.clip();
    context.imageSmoothingEnabled = this.zoom < 2; // magnified pixels are squares
    context.imageSmoothingQuality = "high";
    for (const level of new Set([this.levels - 1, wanted])) this.drawLevel(context, layer, level, left, right);
    context.restore();
  }

  drawLevel(context, layer, level, left, right) {
    const { width, height } = this.canvas;
    const side = this.view.tile * 2 ** level; // of a tile, in pixels of the picture
    // Whole numbers, so that at 1:1 no pixel is interpolated, and between tiles there is no gap.
    const originX = Math.round(width / 2 - this.center.x * this.zoom);
    const originY = Math.round(height / 2 - this.center.y * this.zoom);
    const x = (column) => Math.round(originX + Math.min(column * side, this.view.width) * this.zoom);
    const y = (row) => Math.round(originY + Math.min(row * side, this.view.height) * this.zoom);
    const columns = Math.ceil(this.view.width / side);
    const rows = Math.ceil(this.view.height / side);
    for (let row = 0; row < rows; row += 1) {
      if (y(row + 1) <= 0 || y(row) >= height) continue;
      for (let column = 0; column < columns; column += 1) {
        if (x(column + 1) <= left || x(column) >= right) continue;
        const image = this.tile(`${layer}/${level}-${column}-${row}${this.view.suffix}`);
        if (!image.complete || !image.naturalWidth) continue;
        context.drawImage(image, x(column), y(row), x(column + 1) - x(column), y(row + 1) - y(row));
      }
    }
  }

  tile(address) {
    const image = this.tiles.get(address) ?? this.load(address);
    this.tiles.delete(address);
    this.tiles.set(address, image);
    return image;
  }

  load(address) {
    const image = new Image();
    image.addEventListener("load", () => this.redraw());
    image.addEventListener("error", () => {
      this.querySelector(".hint").textContent = "The server does not have this part of the picture any more.";
    });
    image.src = address;
    return image;
  }
}

customElements.define("seemore-comparison", Comparison);
