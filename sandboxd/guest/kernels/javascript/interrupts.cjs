// SIGINT ends the running cell. While the event loop turns, the signal handler does that. If a script never returns
// to the loop, a thread (watcher.cjs) ends it: the thread receives the signal, too, notices that the main thread does
// not handle it, and makes V8 terminate the script. Then the handler runs. V8 runs neither catch nor finally blocks
// in a terminated script, nor in our functions that called it, so no code here may rely on them.
'use strict';

const path = require('node:path');
const { Worker, SHARE_ENV } = require('node:worker_threads');

// Indexes of the memory that the two threads share: how many signals each thread has received, and the number of the
// running cell, or 0.
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

  /** Installs the signal handler again if user code has removed it. */
  install() {
    if (process.listeners('SIGINT').includes(this.onSignal)) return;
    process.on('SIGINT', this.onSignal);
    Atomics.store(this.signals, MAIN, Atomics.load(this.signals, WATCHER));
  }

  /** Whether a signal has arrived that the main thread has not handled yet, because it is busy with the calling code. */
  get pending() {
    return Atomics.load(this.signals, MAIN) < Atomics.load(this.signals, WATCHER);
  }

  /**
   * Sets the number of the running cell; 0 if none runs. Only a running cell is ever terminated, not our own code
   * between cells, which reads requests.
   */
  running(number) {
    Atomics.store(this.signals, CELL, number);
  }

  /** Starts the thread, and calls ready when the thread watches or can't be started. */
  watch(ready) {
    const worker = new Worker(path.join(__dirname, 'watcher.cjs'), {
      workerData: this.signals, env: SHARE_ENV, argv: [],
      resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 },
    });
    worker.once('message', ready);
    // A number is that of a cell that the thread has terminated. If it terminated our own handler in that cell, the
    // handler runs again here.
    worker.on('message', (number) => number === Atomics.load(this.signals, CELL) && this.interrupt());
    worker.on('error', (error) => {
      console.error(`SIGINT cannot end a script that never yields here: ${error.message}`);
      ready();
    });
    worker.unref();
  }
}

module.exports = { Interrupts };
