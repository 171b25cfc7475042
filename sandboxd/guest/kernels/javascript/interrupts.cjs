// SIGINT ends the running cell. While the event loop turns, the handler does that by itself. A script that never returns to
// the loop is ended by a thread of ours: it gets the signal too, notices that the main thread does not, and has V8 terminate what
// runs; then the handler gets its turn. Such a script is simply no more: neither catch nor finally runs in it, nor in our
// functions that called it, so nothing here may rely on them.
'use strict';

const path = require('node:path');
const { Worker, SHARE_ENV } = require('node:worker_threads');

// What the two threads share: how many signals each has got, and the number of the cell that runs, or 0.
const MAIN = 0;
const WATCHER = 1;
const CELL = 2;

class Interrupts {
  constructor(interrupt) {
    this.interrupt = interrupt;
    this.signals = new Int32Array(new SharedArrayBuffer(12));
    this.onSignal = () => {
      Atomics.add(this.signals, MAIN, 1);
      interrupt();
    };
    process.on('SIGINT', this.onSignal);
  }

  /** Takes the signal back if user code took it away. */
  install() {
    if (process.listeners('SIGINT').includes(this.onSignal)) return;
    process.on('SIGINT', this.onSignal);
    Atomics.store(this.signals, MAIN, Atomics.load(this.signals, WATCHER));
  }

  /** Whether a signal has come that the main thread, busy running this, has not been told of. */
  get pending() {
    return Atomics.load(this.signals, MAIN) < Atomics.load(this.signals, WATCHER);
  }

  /** Only the cell that runs is ever terminated: our own code between cells, which reads requests, is not. */
  running(number) {
    Atomics.store(this.signals, CELL, number);
  }

  /** Starts the thread and calls ready once it watches, or once it is clear that it can't. */
  watch(ready) {
    const worker = new Worker(path.join(__dirname, 'watcher.cjs'), {
      workerData: this.signals, env: SHARE_ENV, argv: [],
      resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 },
    });
    worker.once('message', ready);
    // A number is that of a cell that it ended: should our handler itself have been in the way, this is its second chance.
    worker.on('message', (number) => number === Atomics.load(this.signals, CELL) && this.interrupt());
    worker.on('error', (error) => {
      console.error(`SIGINT cannot end a script that never yields here: ${error.message}`);
      ready();
    });
    worker.unref();
  }
}

module.exports = { Interrupts };
