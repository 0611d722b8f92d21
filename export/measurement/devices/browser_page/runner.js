// Loads, runs and times TFLite models in this page. The device `browser` calls the functions of `runner` from Python.
//
// LiteRT.js's `CompiledModel` takes float32, int32 and uint8 only. So that int8 files can be run too, the models are run one
// level below it, by the bindings of the WebAssembly module.

import {loadLiteRt} from '@litertjs/core';

const models = [];
let wasm, environment;

class Model {
  // `bytes` is the content of a .tflite file with one signature.
  constructor(bytes) {
    this.pointer = wasm._malloc(bytes.byteLength);
    wasm.HEAPU8.set(bytes, this.pointer);
    this.model = wasm.loadModel(environment, this.pointer, bytes.byteLength);
    const signature = this.model.getSignature(0);
    this.inputNames = listed(signature.inputNames());
    this.outputNames = listed(signature.outputNames());
    signature.delete();
  }

  async compile(threads) {
    const options = {accelerator: 'wasm', cpuOptions: {numThreads: threads}, gpuOptions: {}, webNNOptions: {}};
    this.compiled = await wasm.compileModel(environment, this.model, options);
  }

  // Copies the inputs, name -> {shape, bytes}, into the memory of the module.
  setInputs(inputs) {
    this.release();
    this.inputs = this.inputNames.map((name, index) => {
      const {shape, bytes} = inputs[name];
      const type = tensorType(this.model.getInputTensorType(0, index), shape);
      const buffer = wasm.LiteRtTensorBuffer.createManaged(
        environment, wasm.LiteRtTensorBufferType.HOST_MEMORY, type, bytes.byteLength);
      type.delete();
      wasm.HEAPU8.set(bytes, buffer.lock(wasm.LiteRtTensorBufferLockMode.WRITE));
      buffer.unlock();
      return buffer;
    });
  }

  // Runs the model once. The caller deletes the buffers that are returned, one for each output.
  invoke() {
    return this.compiled.run(0, this.inputs);
  }

  // Returns the outputs of one run, bytes by name.
  outputs() {
    return Object.fromEntries(this.invoke().map((buffer, index) => {
      const start = buffer.lock(wasm.LiteRtTensorBufferLockMode.READ);
      const bytes = wasm.HEAPU8.slice(start, start + buffer.packedSize());
      buffer.unlock();
      buffer.delete();
      return [this.outputNames[index], bytes];
    }));
  }

  // Runs the model untimed, so often or for so many milliseconds. Returns how often it ran, and the mean milliseconds of a run.
  warmUp(most, milliseconds) {
    const start = performance.now();
    let runs = 0, passed = 0;
    do {
      this.run();
      runs += 1;
      passed = performance.now() - start;
    } while (runs < most && passed < milliseconds);
    return {runs, mean: passed / runs};
  }

  // Returns the mean milliseconds of so many runs. One more runs before the clock starts, because the caches still hold the data
  // of another model.
  time(runs) {
    this.run();
    const start = performance.now();
    for (let run = 0; run < runs; run++) this.run();
    return (performance.now() - start) / runs;
  }

  run() {
    for (const buffer of this.invoke()) buffer.delete();
  }

  release() {
    for (const buffer of this.inputs ?? []) buffer.delete();
    this.inputs = [];
  }

  delete() {
    this.release();
    this.compiled?.delete();
    this.model.delete();
    wasm._free(this.pointer);
  }
}

function listed(vector) {
  const items = Array.from({length: vector.size()}, (_, index) => vector.get(index));
  vector.delete();
  return items;
}

// Returns the type of a tensor with the element type of `declared`, which is deleted, and this shape.
function tensorType(declared, shape) {
  const dimensions = new wasm.VectorInt32();
  for (const size of shape) dimensions.push_back(size);
  const layout = wasm.LiteRtLayout.create(dimensions);
  const type = wasm.LiteRtRankedTensorType.create(declared.elementType(), layout);
  for (const each of [dimensions, layout, declared]) each.delete();
  return type;
}

const decoded = text => Uint8Array.from(atob(text), character => character.charCodeAt(0));

function encoded(bytes) {
  let text = '';
  // `fromCharCode` takes a limited number of arguments.
  for (let start = 0; start < bytes.length; start += 8192) text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  return btoa(text);
}

const mapped = (record, convert) => Object.fromEntries(Object.entries(record).map(([name, value]) => [name, convert(value)]));

globalThis.runner = {
  async start(threaded) {
    const litert = await loadLiteRt('/node_modules/@litertjs/core/wasm/', {threads: threaded});
    wasm = litert.liteRtWasm;
    environment = litert.getDefaultEnvironment().liteRtEnvironment;
  },

  // Loads the file at `url`, and returns a number that stands for the model. `inputs` is name -> {shape, data}, the data in base64.
  async load(url, threads, inputs) {
    const response = await fetch(url);
    const model = new Model(new Uint8Array(await response.arrayBuffer()));
    await model.compile(threads);
    model.setInputs(mapped(inputs, ({shape, data}) => ({shape, bytes: decoded(data)})));
    return models.push(model) - 1;
  },

  // Returns the outputs of one run, in base64 by name.
  outputs: number => mapped(models[number].outputs(), encoded),
  warmUp: (number, most, milliseconds) => models[number].warmUp(most, milliseconds),
  time: (number, runs) => models[number].time(runs),

  delete(number) {
    models[number].delete();
    models[number] = null;
  },
};
