// A network in a .tflite file: what it reads in an image, and how long it takes.

import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';

// A block of runs lasts so many milliseconds at least. The clock of a page ticks every 0.1 ms.
const BLOCK = 8;
// V8 and other engines make WebAssembly faster while it runs, so the first runs are not timed.
const WARM_UP = 150;
// The latency that is shown is the median of the last blocks.
const KEPT = 25;

export const startRuntime = () => loadLiteRt('./litert/wasm/');

export class Classifier {
  // `url` is the address of the .tflite file, whose signature has the input "image" and the output "scores".
  static async load(url) {
    const classifier = new Classifier();
    classifier.model = await loadAndCompile(url, {accelerator: 'wasm'});
    classifier.shape = [...classifier.model.getInputDetails()[0].shape];
    classifier.blocks = [];
    await classifier.time(WARM_UP);
    return classifier;
  }

  // Returns the scores of the ten digits in an image, numbers from 0 to 1.
  async scores(image) {
    const tensor = new Tensor(image, this.shape);
    const outputs = await this.model.run({image: tensor});
    const scores = await outputs.scores.data();
    outputs.scores.delete();
    tensor.delete();
    return scores;
  }

  // Times one more block of runs, and returns the median of the last blocks in microseconds.
  async measure() {
    this.blocks = [...this.blocks, await this.time(BLOCK)].slice(-KEPT);
    const sorted = [...this.blocks].sort((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)];
  }

  // Runs the model for so many milliseconds, and returns the mean microseconds of a run.
  async time(milliseconds) {
    const size = this.shape.reduce((product, axis) => product * axis, 1);
    const tensor = new Tensor(new Float32Array(size), this.shape);
    const start = performance.now();
    let runs = 0, passed = 0;
    while (passed < milliseconds) {
      for (let run = 0; run < 10; run++) (await this.model.run({image: tensor})).scores.delete();
      runs += 10;
      passed = performance.now() - start;
    }
    tensor.delete();
    return 1e3 * passed / runs;
  }
}
