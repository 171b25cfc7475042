// SIGINT ends the running cell. While the event loop turns, the handler does that by itself. A script that never returns to
// the loop is ended by a thread of ours, which sees the signal too, notices that the main thread does not, and has V8
// terminate what runs; then the handler gets its turn.
'use strict';

const path = require('node:path');
const { Worker, SHARE_ENV } = require('node:worker_threads');

class Interrupts {
  constructor(interrupt) {
    this.seen = new Int32Array(new SharedArrayBuffer(4));
    this.onSignal = () => {
      Atomics.add(this.seen, 0, 1);
      interrupt();
    };
  }

  install() {
    if (!process.listeners('SIGINT').includes(this.onSignal)) process.on('SIGINT', this.onSignal);
  }

  watch() {
    const worker = new Worker(path.join(__dirname, 'watcher.cjs'), {
      workerData: this.seen, env: SHARE_ENV, argv: [], execArgv: [], resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 },
    });
    worker.on('error', () => {}); // without it only a stuck loop can't be interrupted, and the guest has other signals
    worker.unref();
  }
}

module.exports = { Interrupts };
