// The page: what is drawn goes to the networks, and what they say to the screen.

import {Classifier, startRuntime} from './classifier.js';
import {imageOf, Paper, SIDE} from './drawing.js';

// How many blocks of each model are timed, so many milliseconds after a drawing has changed, so that drawing stays smooth.
const ROUNDS = 12;
const REST = 250;

const element = id => document.getElementById(id);
const microseconds = time => `${time < 99.5 ? time.toFixed(1) : Math.round(time).toLocaleString('en')} µs`;
const kibibytes = bytes => `${Math.round(bytes / 1024).toLocaleString('en')} KiB`;

function made(tag, name, text = '') {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  return node;
}

// A row with a title, a bar and a number.
class Bar {
  constructor(parent, index, title) {
    const row = made('div', `bar model-${index}`);
    this.fill = made('span', 'fill');
    const track = made('span', 'track');
    track.append(this.fill);
    this.number = made('span', 'number', '–');
    row.append(made('span', 'title', title), track, this.number);
    parent.append(row);
  }

  show(part, text) {
    this.fill.style.width = `${100 * part}%`;
    this.number.textContent = text;
  }
}

// Shows which digit a network reads.
class Answer {
  constructor(parent, index, {title, accuracy}) {
    const tile = made('article', `answer model-${index}`);
    this.digit = made('output', 'digit', '–');
    this.doubt = made('p', 'doubt', ' ');
    tile.append(
      made('h3', 'title', title), this.digit, this.doubt, made('p', 'note', `${(100 * accuracy).toFixed(1)} % accuracy`));
    parent.append(tile);
  }

  // `scores` has one number for each digit. null: nothing is drawn.
  show(scores) {
    if (scores === null) {
      this.digit.textContent = '–';
      this.doubt.textContent = ' ';
      return;
    }
    const [best, second] = [...scores.keys()].sort((a, b) => scores[b] - scores[a]);
    this.digit.textContent = best;
    const percent = digit => `${Math.round(100 * scores[digit])} %`;
    this.doubt.textContent = `${percent(best)} sure` + (scores[second] >= 0.01 ? `\nor ${second}: ${percent(second)}` : '');
  }
}

// Measures the models in turns, a block of each per round, so that all of them see the device in the same state.
class Stopwatch {
  constructor(classifiers, empty, onTimes) {
    Object.assign(this, {classifiers, empty, onTimes, left: 0, busy: false});
  }

  // Starts to measure when nothing more is drawn.
  start() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.run(), REST);
  }

  async run() {
    this.left = ROUNDS;
    if (this.busy) return;
    this.busy = true;
    while (this.left-- > 0) {
      const times = [];
      for (const classifier of [...this.classifiers, this.empty]) {
        times.push(await classifier.measure());
        await new Promise(requestAnimationFrame);
      }
      this.onTimes(times.slice(0, -1), times.at(-1));
    }
    this.busy = false;
  }
}

function showSeen(image) {
  const context = element('seen').getContext('2d');
  const shown = context.createImageData(SIDE, SIDE);
  const ink = getComputedStyle(element('seen')).color.match(/\d+/g).map(Number);
  image?.forEach((value, index) => shown.data.set([...ink.slice(0, 3), 255 * value], 4 * index));
  context.putImageData(shown, 0, 0);
}

async function start() {
  const {models, empty, images, litert} = await (await fetch('models.json')).json();
  await startRuntime();
  const classifiers = [];
  for (const model of models) classifiers.push(await Classifier.load(model.file));
  const answers = models.map((model, index) => new Answer(element('answers'), index, model));
  const times = models.map((model, index) => new Bar(element('times'), index, model.title));
  const largest = Math.max(...models.map(model => model.bytes));
  models.forEach((model, index) =>
    new Bar(element('sizes'), index, model.title).show(model.bytes / largest, kibibytes(model.bytes)));
  element('conditions').textContent =
    `LiteRT.js ${litert}, WebAssembly on one thread. The accuracy is that on ${images.toLocaleString('en')} test images.`;

  const stopwatch = new Stopwatch(classifiers, await Classifier.load(empty), (latencies, call) => {
    const slowest = Math.max(...latencies);
    latencies.forEach((time, index) => {
      const factor = slowest / time;
      times[index].show(time / slowest, microseconds(time) + (factor > 1.05 ? ` (${factor.toFixed(1)}× as fast)` : ''));
    });
    element('call').textContent = `Medians. A call takes ${microseconds(call)} by itself, which is in each of them.`;
  });

  let waiting = false;
  let latest = [];
  async function classify() {
    waiting = false;
    const image = imageOf(latest);
    element('hint').hidden = image !== null;
    showSeen(image);
    for (const [index, classifier] of classifiers.entries()) {
      answers[index].show(image === null ? null : await classifier.scores(image));
    }
    document.body.dataset.strokes = latest.length;
    if (image !== null) stopwatch.start();
  }
  const paper = new Paper(element('paper'), strokes => {
    latest = strokes;
    if (!waiting) requestAnimationFrame(classify);
    waiting = true;
  });
  element('clear').addEventListener('click', () => paper.clear());
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => paper.changed());
  document.body.dataset.ready = 'yes';
}

start().catch(error => {
  const place = location.protocol === 'file:' ? ' Serve this folder: python -m http.server' : '';
  element('problem').textContent = `The networks could not be loaded: ${error.message ?? error}.${place}`;
  element('problem').hidden = false;
});
