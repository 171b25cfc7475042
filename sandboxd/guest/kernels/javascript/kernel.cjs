// The JavaScript kernel: runs one cell after another in Node's main context. See docs/kernel-protocol.md.
//
//   kernel      reads requests, runs cells, says how they ended
//   channel     the messages to the guest, gathered and in order
//   streams     process.stdout, process.stderr, and stdin that refuses
//   transform   makes scripts of a cell: declarations that persist, top-level await, import
//   modules     require() and import() as if the cell were a file in the working directory
//   values      values and errors as text and as MIME bundles
//   subprocess  order between our output and that of child processes
//   randomness  new state for Math.random and crypto after the process was copied; preloaded here and in workers
//   interrupts  SIGINT, also when the event loop is stuck; watcher is its thread
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
const exitNow = process.reallyExit.bind(process); // process.exit() is not ours to use: it ends a cell
const { setImmediate, MessageChannel } = globalThis; // captured before user code can change it
const { defineProperty, getOwnPropertyDescriptor } = Object;

/** What process.exit() throws, so that the code that called it goes no further. */
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
    this.waiting = []; // requests that came before it ended
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
    process.execArgv = []; // our flags are not for the user's child processes
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
    // The event loop has to stay alive for timers, so no blocking reads: libuv takes pipes and sockets alike.
    const requests = new net.Socket({ fd: REQUESTS, readable: true, writable: false });
    let pieces = [];
    requests.on('data', (data) => {
      for (let end; (end = data.indexOf(10)) >= 0; data = data.subarray(end + 1)) {
        const line = Buffer.concat([...pieces, data.subarray(0, end)]);
        pieces = [];
        const request = JSON.parse(line.toString());
        if (request.type === 'renew') this.renew(); // now, since timers do not wait for a cell's end
        else if (request.type === 'warm') this.channel.send({ type: 'warm' }); // Node starts with all that it has
        else this.waiting.push(request);
      }
      if (data.length) pieces.push(data);
      this.later(() => this.next()); // a signal that came before the request is told before it
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
   * Calls task from the event loop: a port's messages are the loop's one way in that stays whole when a script that it
   * called is terminated. Timers and immediates keep books, in functions that such a script never returns to.
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
    // A cell ends a little after its code, so that what its promises print at once is still its own.
    const succeed = (value) => this.later(() => this.succeed(cell, value));
    // After an error, which may be what SIGINT did to a child process, the event loop turns, so that the signal is told first.
    const fail = (error) => setImmediate(() => setImmediate(() => this.later(() => this.fail(cell, error))));
    try {
      const value = this.run(code);
      if (types.isPromise(value)) value.then(succeed, fail);
      else succeed(value);
    } catch (error) {
      fail(error);
    }
  }

  /** Runs code and returns its value, or a promise of it. */
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

  /** SIGINT, once the event loop is free: what the cell waits for is abandoned. */
  interrupt() {
    if (!this.running) return;
    if (this.channel.id === null) { // it had just ended, all but
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

  /** Puts back what user code may have taken off what it shares with us. */
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

  /** An error in a timer or in a promise that nobody awaits: it belongs to no cell, so it is text. */
  uncaught(error) {
    if (error instanceof ProcessExit || error === null) return; // null: what is left of a script that SIGINT ended
    const { traceback } = values.describeError(error);
    this.channel.text('stderr', `${traceback.startsWith('Uncaught ') ? '' : 'Uncaught '}${traceback}\n`);
  }
}

/** Makes name a global that a script may declare, also where Node has a getter (crypto, navigator) in its place. */
function declare(name) {
  const existing = getOwnPropertyDescriptor(globalThis, name);
  if (existing && (!existing.configurable || ('value' in existing && existing.writable))) return;
  defineProperty(globalThis, name, { value: undefined, writable: true, enumerable: true, configurable: true });
}

new Kernel().start();
