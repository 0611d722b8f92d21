// Strokes on a canvas, and the image of 28 x 28 pixels that the networks take.

export const SIDE = 28;
// As in MNIST: a digit fills 20 x 20 pixels, and its center of mass is in the middle of the image. PEN is the width of its lines.
const BOX = 20;
const PEN = 2.6;
// The image is drawn larger, and each pixel is the mean of so many times so many.
const FINE = 6;
// A stroke shorter than this part of the paper is a dot, and is not enlarged any further.
const SMALLEST = 0.1;

// Follows a finger, a pen or the mouse on a canvas, and draws what it sees.
export class Paper {
  // `onChange` is called after each change of the strokes.
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.onChange = onChange;
    this.strokes = [];
    this.active = null;
    canvas.addEventListener('pointerdown', event => this.start(event));
    canvas.addEventListener('pointermove', event => this.follow(event));
    for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, event => this.stop(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  clear() {
    this.strokes = [];
    this.active = null;
    this.changed();
  }

  start(event) {
    if (this.active !== null || event.button !== 0) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.active = event.pointerId;
    this.strokes.push([this.point(event)]);
    this.changed();
  }

  follow(event) {
    if (event.pointerId !== this.active) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.strokes.at(-1).push(this.point(each));
    this.changed();
  }

  stop(event) {
    if (event.pointerId === this.active) this.active = null;
  }

  // Returns the place of an event on the paper, from 0 to 1 in both directions.
  point(event) {
    const {left, top, width, height} = this.canvas.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  }

  changed() {
    this.draw();
    this.onChange(this.strokes);
  }

  draw() {
    const size = Math.round(this.canvas.clientWidth * devicePixelRatio);
    if (this.canvas.width !== size) this.canvas.width = this.canvas.height = size;
    const context = this.canvas.getContext('2d');
    context.clearRect(0, 0, size, size);
    context.strokeStyle = getComputedStyle(this.canvas).color;
    drawLines(context, this.strokes, size / 14, ([x, y]) => [x * size, y * size]);
  }
}

// Returns the image of strokes as numbers from 0 (paper) to 1 (ink), row by row. Without strokes it returns null.
//
// The strokes themselves are scaled, so that the lines of a small drawing are as wide as those of a large one.
export function imageOf(strokes) {
  if (!strokes.length) return null;
  const points = strokes.flat();
  const [left, top] = [0, 1].map(axis => Math.min(...points.map(point => point[axis])));
  const [right, bottom] = [0, 1].map(axis => Math.max(...points.map(point => point[axis])));
  const scale = (BOX - PEN) / Math.max(right - left, bottom - top, SMALLEST);
  const placed = (x, y) => rendered(strokes, scale, SIDE / 2 - x * scale, SIDE / 2 - y * scale);
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  const [massX, massY] = centerOfMass(placed(x, y));
  return placed(x + (massX - SIDE / 2) / scale, y + (massY - SIDE / 2) / scale);
}

function rendered(strokes, scale, offsetX, offsetY) {
  const size = SIDE * FINE;
  const context = new OffscreenCanvas(size, size).getContext('2d', {willReadFrequently: true});
  drawLines(context, strokes, PEN * FINE, ([x, y]) => [(x * scale + offsetX) * FINE, (y * scale + offsetY) * FINE]);
  const {data} = context.getImageData(0, 0, size, size);
  const image = new Float32Array(SIDE * SIDE);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      image[Math.floor(y / FINE) * SIDE + Math.floor(x / FINE)] += data[4 * (y * size + x) + 3] / (255 * FINE * FINE);
    }
  }
  return image;
}

function drawLines(context, strokes, width, place) {
  context.lineWidth = width;
  context.lineCap = context.lineJoin = 'round';
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...place(stroke[0]));
    for (const point of stroke) context.lineTo(...place(point));
    context.stroke();
  }
}

function centerOfMass(image) {
  let mass = 0, massX = 0, massY = 0;
  image.forEach((ink, index) => {
    mass += ink;
    massX += ink * ((index % SIDE) + 0.5);
    massY += ink * (Math.floor(index / SIDE) + 0.5);
  });
  return [massX / mass, massY / mass];
}
