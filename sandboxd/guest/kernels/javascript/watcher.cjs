// The thread that ends a script which keeps the main thread from seeing SIGINT.
'use strict';

const inspector = require('node:inspector');
const { parentPort, workerData: seen } = require('node:worker_threads');

const PATIENCE_MS = 50;

// process.on() has no signals in a thread; the handle under it has, and says that it is deprecated.
process.emitWarning = () => {};
const { Signal } = process.binding('signal_wrap');
const signal = new Signal();
signal.onsignal = () => {
  const before = Atomics.load(seen, 0);
  setTimeout(() => {
    if (Atomics.load(seen, 0) === before) terminate();
  }, PATIENCE_MS);
};
signal.start(2); // SIGINT
parentPort.on('message', () => {}); // stay

function terminate() {
  const session = new inspector.Session();
  session.connectToMainThread();
  session.post('Runtime.terminateExecution', () => session.disconnect());
}
