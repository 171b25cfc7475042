// The thread that ends a script which keeps the main thread from seeing SIGINT. See interrupts.cjs.
'use strict';

const fs = require('node:fs');
const inspector = require('node:inspector');
const { parentPort, workerData: signals } = require('node:worker_threads');

const MAIN = 0;
const WATCHER = 1;
const CELL = 2;
const INTERVAL_MS = 25;

// Main's processor time since the signal tells that it is busy with something else than the signal; that it is not even that
// (Atomics.wait, say) takes longer to be sure of, since it may only be kept waiting by other processes.
const BUSY_SECONDS = 0.03;
const BLOCKED_MS = 500;

// process.on() has no signals in a thread, but the handle under it has. Node warns that it is internal, and so are we.
process.emitWarning = () => {};
const { internalBinding } = require('internal/test/binding');
const { Signal } = internalBinding('signal_wrap');
const signal = new Signal();
let watched = 0; // the cell that a signal came for
signal.onsignal = () => {
  Atomics.add(signals, WATCHER, 1);
  const cell = Atomics.load(signals, CELL);
  if (cell === 0 || cell === watched) return;
  watched = cell;
  watch(cell, Date.now(), processorSeconds());
};
signal.start(2); // SIGINT
parentPort.postMessage('watching');

function watch(cell, since, seconds) {
  setTimeout(() => {
    if (watched !== cell) return;
    if (Atomics.load(signals, CELL) !== cell || Atomics.load(signals, MAIN) >= Atomics.load(signals, WATCHER)) {
      watched = 0;
    } else if (processorSeconds() - seconds >= BUSY_SECONDS || Date.now() - since >= BLOCKED_MS) {
      terminate(cell);
    } else {
      watch(cell, since, seconds);
    }
  }, INTERVAL_MS);
}

function terminate(cell) {
  const session = new inspector.Session();
  session.connectToMainThread();
  session.post('Runtime.terminateExecution', () => {
    session.disconnect();
    parentPort.postMessage(cell);
    watch(cell, Date.now(), processorSeconds()); // it may have been in no script at all
  });
}

/** The processor time that the main thread has used, in steps of 10 ms. */
function processorSeconds() {
  try {
    const fields = fs.readFileSync(`/proc/self/task/${process.pid}/stat`, 'latin1').replace(/^.*\) /, '').split(' ');
    return (+fields[11] + +fields[12]) / 100; // utime and stime
  } catch {
    return 0;
  }
}
