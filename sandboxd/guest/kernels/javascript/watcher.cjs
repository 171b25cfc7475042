// The thread that terminates a script that keeps the main thread from handling SIGINT. See interrupts.cjs.
'use strict';

const fs = require('node:fs');
const inspector = require('node:inspector');
const { parentPort, workerData: signals } = require('node:worker_threads');

const MAIN = 0;
const WATCHER = 1;
const CELL = 2;
const INTERVAL_MS = 25;

// If the main thread has used BUSY_SECONDS of processor time since the signal without handling it, it is busy with
// something else. A main thread that uses no processor time may be blocked (for example by Atomics.wait), or may only
// be waiting for other processes, so it gets BLOCKED_MS.
const BUSY_SECONDS = 0.03;
const BLOCKED_MS = 500;

// process.on() receives no signals in a thread, but the internal handle below it does. Node warns that the handle is
// internal; this code accepts that.
process.emitWarning = () => {};
const { internalBinding } = require('internal/test/binding');
const { Signal } = internalBinding('signal_wrap');
const signal = new Signal();
let watched = 0; // the cell that was running when a signal arrived
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
    watch(cell, Date.now(), processorSeconds()); // the main thread may not have been in a script
  });
}

/** The processor time that the main thread has used in seconds, in steps of 10 ms. */
function processorSeconds() {
  try {
    const fields = fs.readFileSync(`/proc/self/task/${process.pid}/stat`, 'latin1').replace(/^.*\) /, '').split(' ');
    return (+fields[11] + +fields[12]) / 100; // utime and stime
  } catch {
    return 0;
  }
}
