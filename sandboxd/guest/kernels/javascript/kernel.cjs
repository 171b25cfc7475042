// The JavaScript kernel runs one cell after another in Node's main context. See docs/kernel-protocol.md. Its modules:
//
//   kernel      reads requests, runs cells and reports how they ended
//   channel     gathers the messages to the guest and sends them in order
//   streams     process.stdout, process.stderr, and a stdin that rejects questions
//   transform   turns a cell into scripts: declarations that persist, top-level await, import
//   modules     require() and import() as if the cell were a file in the working directory
//   values      values and errors as text and as MIME bundles
//   subprocess  the order between our output and the output of child processes
//   randomness  new state for Math.random and crypto after the process was copied; preloaded here and in workers
//   interrupts  SIGINT, also when the event loop is blocked; watcher is its thread
'use strict';

const net = require('node:net');
const vm = require('node:vm');
const { types } = require('node:util');
const { Channel } = require('./channel.cjs');
const { Interrupts } = require('./interrupts.cjs');
const modules = require('./modules.cjs');
const randomness = require('./randomness.cjs');
const streams = require('./streams.cjs');
const subprocess = require('./subprocess.cjs');
const { transform } = require('./transform.cjs');
const values = require('./values.cjs');

const REQUESTS = 3;
const exitNow = process.reallyExit.bind(process); // not process.exit(), which this kernel replaces: it ends only a cell
const { setImmediate, MessageChannel } = globalThis; // captured before user code can change it
const { defineProperty, getOwnPropertyDescriptor } = Object;

/** The error that process.exit() throws, so that the code that called it does not continue. */
class ProcessExit extends Error {
  constructor(code) {
    super(`process.exit(${code})`);
    this.name = 'ProcessExit';
  }
}

class Kernel {
  constructor() {
    this.count = 0;
    this.running = null; // the cell that has not ended yet
    this.ready = false;
    this.waiting = []; // requests that arrived before the running cell ended
    this.tasks = [];
    this.turn = new MessageChannel();
    this.turn.port1.on('message', () => this.tasks.shift()?.());
    this.channel = new Channel();
    this.interrupts = new Interrupts(() => this.interrupt());
  }

  start() {
    streams.install(this.channel);
    subprocess.install(this.channel, this.interrupts);
    this.modules = modules.install();
    defineProperty(globalThis, 'display', {
      value: (...shown) => shown.forEach((value) => this.show('display', values.displayBundle(value))),
      writable: true, configurable: true,
    });
    process.exit = (code) => this.exit(code);
    process.execArgv = []; // the user's child processes must not inherit our flags
    Error.stackTraceLimit = 30;
    this.restore();
    this.read();
    transform('await 0; const warm = 1', 0);
    const ready = () => {
      if (this.ready) return;
      this.ready = true;
      this.channel.send({ type: 'ready', language: 'javascript', version: process.versions.node, runner: `Node ${process.version}` });
    };
    this.interrupts.watch(ready);
  }

  read() {
    // The event loop must stay free for timers, so reads must not block. A net.Socket reads both pipes and sockets.
    const requests = new net.Socket({ fd: REQUESTS, readable: true, writable: false });
    let pieces = [];
    requests.on('data', (data) => {
      for (let end; (end = data.indexOf(10)) >= 0; data = data.subarray(end + 1)) {
        const line = Buffer.concat([...pieces, data.subarray(0, end)]);
        pieces = [];
        const request = JSON.parse(line.toString());
        if (request.type === 'renew') this.renew(); // at once, because timers run during a cell, too
        else if (request.type === 'warm') this.channel.send({ type: 'warm' }); // Node has nothing to import
        else this.waiting.push(request);
      }
      if (data.length) pieces.push(data);
      this.later(() => this.next()); // signals that arrived before the request are handled first
    });
    requests.on('close', () => exitNow(0));
    requests.on('error', () => exitNow(0));
  }

  renew() {
    const complaint = randomness.renew();
    if (complaint) this.channel.text('stderr', complaint);
    this.channel.send({ type: 'renewed', text: complaint });
  }

  /**
   * Calls task from the event loop. It uses a message port, because that is the only way into the loop that still
   * works after a script that it called was terminated. Timers and immediates update their state in functions that a
   * terminated script never returns to.
   */
  later(task) {
    this.tasks.push(task);
    this.turn.port2.postMessage(null);
  }

  next() {
    if (!this.running && this.waiting.length) this.execute(this.waiting.shift());
  }

  execute({ id, code }) {
    this.restore();
    const cell = { id };
    this.running = cell;
    this.channel.begin(id);
    this.interrupts.running(++this.count);
    // A cell ends slightly after its code, so that output of promises that settle at once belongs to it.
    const succeed = (value) => this.later(() => this.succeed(cell, value));
    // The error may be an effect of SIGINT on a child process. So fail first lets the event loop run, to handle the
    // signal before the error.
    const fail = (error) => setImmediate(() => setImmediate(() => this.later(() => this.fail(cell, error))));
    try {
      const value = this.run(code);
      if (types.isPromise(value)) value.then(succeed, fail);
      else succeed(value);
    } catch (error) {
      fail(error);
    }
  }

  /** Runs code and returns its value, or a promise of its value. */
  run(code) {
    const plan = transform(code, this.count);
    values.remember(plan.filename, code, plan.shift);
    plan.names.forEach(declare);
    if (!plan.imports.length) return this.runScripts(plan);
    return this.modules.load(plan.imports).then(() => this.runScripts(plan));
  }

  runScripts(plan) {
    let value;
    for (const { source, columnOffset } of plan.scripts) {
      const script = new vm.Script(source, { filename: plan.filename, columnOffset, ...this.modules.scriptOptions });
      value = script.runInThisContext({ displayErrors: false });
    }
    return plan.hasResult || plan.isAsync ? value : undefined;
  }

  succeed(cell, value) {
    if (cell !== this.running) return;
    try {
      if (value !== undefined) this.show('result', values.resultBundle(value));
    } catch (error) {
      return this.fail(cell, error);
    }
    this.end(cell, 'ok');
  }

  fail(cell, error) {
    if (cell !== this.running) return;
    if (this.interrupts.pending) return this.interrupt();
    this.end(cell, 'error', values.describeError(error));
  }

  /** Handles SIGINT when the event loop is free: the cell ends, and nothing that it waits for is awaited any more. */
  interrupt() {
    if (!this.running) return;
    if (this.channel.id === null) { // end() was terminated after it had sent done
      this.running = null;
      return;
    }
    const message = 'the execution was interrupted';
    this.end(this.running, 'interrupted', { name: 'Interrupted', message, traceback: `Interrupted: ${message}` });
  }

  /** process.exit() ends the cell, not the kernel. */
  exit(code = process.exitCode ?? 0) {
    const exit = new ProcessExit(code);
    if (this.running) {
      const { name, message } = exit;
      this.end(this.running, +code ? 'error' : 'ok', +code ? { name, message, traceback: `${name}: ${message}` } : null);
    }
    throw exit;
  }

  end(cell, status, error) {
    this.interrupts.running(0);
    if (error) this.channel.send({ type: 'error', id: cell.id, ...error });
    this.channel.done(status);
    this.running = null;
    process.exitCode = undefined;
    this.later(() => this.next());
  }

  show(type, data) {
    const { id } = this.channel;
    if (!this.channel.send({ type, id, data })) {
      this.channel.send({ type, id, data: { 'text/plain': values.cut(data['text/plain'] ?? '', 64 << 10) } });
    }
  }

  /** Restores objects that the user's code shares with the kernel and may have changed. */
  restore() {
    this.interrupts.install();
    streams.restore();
    this.modules.restore();
    this.listen('uncaughtException');
    this.listen('unhandledRejection');
  }

  listen(event) {
    this.listeners ??= {};
    const listener = (this.listeners[event] ??= (error) => this.uncaught(error));
    if (!process.listeners(event).includes(listener)) process.on(event, listener);
  }

  /** Prints an error in a timer or in a promise that is not awaited. It belongs to no cell, so it is sent as text. */
  uncaught(error) {
    if (error instanceof ProcessExit || error === null) return; // null: the error of a script that SIGINT has ended
    const { traceback } = values.describeError(error);
    this.channel.text('stderr', `${traceback.startsWith('Uncaught ') ? '' : 'Uncaught '}${traceback}\n`);
  }
}

/** Makes name a global variable that a script may declare, also in place of a getter of Node (crypto, navigator). */
function declare(name) {
  const existing = getOwnPropertyDescriptor(globalThis, name);
  if (existing && (!existing.configurable || ('value' in existing && existing.writable))) return;
  defineProperty(globalThis, name, { value: undefined, writable: true, enumerable: true, configurable: true });
}

new Kernel().start();
