// The thread that ends a script which keeps the main thread from seeing SIGINT. See interrupts.cjs.
'use strict';

const inspector = require('node:inspector');
const { parentPort, workerData: signals } = require('node:worker_threads');

const MAIN = 0;
const WATCHER = 1;
const CELL = 2;
const PATIENCE_MS = 50;

// process.on() has no signals in a thread; the handle under it has, and says that it is deprecated.
process.emitWarning = () => {};
const { Signal } = process.binding('signal_wrap');
const signal = new Signal();
let check = null;
signal.onsignal = () => {
  Atomics.add(signals, WATCHER, 1);
  later(Atomics.load(signals, CELL));
};
signal.start(2); // SIGINT
parentPort.postMessage('watching');

function later(cell) {
  if (cell) check ??= setTimeout(terminateIfStuck, PATIENCE_MS, cell);
}

function terminateIfStuck(cell) {
  check = null;
  if (Atomics.load(signals, CELL) !== cell || Atomics.load(signals, MAIN) >= Atomics.load(signals, WATCHER)) return;
  const session = new inspector.Session();
  session.connectToMainThread();
  session.post('Runtime.terminateExecution', () => {
    session.disconnect();
    parentPort.postMessage(cell);
    later(cell); // it may have been in no script at all
  });
}
