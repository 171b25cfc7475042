// process.stdout and process.stderr, which send messages, and clear errors for code that asks a person for input.
'use strict';

const { Writable } = require('node:stream');
const { StringDecoder } = require('node:string_decoder');
const readline = require('node:readline');

const REFUSAL = 'there is no person at the keyboard to answer. Put the value into the code instead, or write it to a file first.';

class Output extends Writable {
  constructor(name, fd, channel) {
    super({ decodeStrings: false });
    this.fd = fd;
    this.isTTY = undefined;
    this.name = name;
    this.channel = channel;
    this.decoder = new StringDecoder('utf8'); // a character may be split between two chunks
  }

  // Bypasses Writable's own queue, which would wait forever for a write that SIGINT has ended.
  write(chunk, encoding, callback) {
    if (typeof encoding === 'function') [encoding, callback] = [undefined, encoding];
    if (typeof chunk !== 'string') chunk = this.decoder.write(Buffer.from(chunk));
    else if (encoding && !/^utf-?8$/i.test(encoding)) chunk = Buffer.from(chunk, encoding).toString();
    if (chunk) this.channel.text(this.name, chunk);
    if (callback) process.nextTick(callback);
    return true;
  }

  // The streams belong to the kernel, not to the cell, so they can't be ended.
  end(chunk, encoding, callback) {
    if (chunk && typeof chunk !== 'function') this.write(chunk, encoding);
    const called = [chunk, encoding, callback].find((argument) => typeof argument === 'function');
    if (called) process.nextTick(called);
    return this;
  }

  destroy() {
    return this;
  }
}

let outputs;
let consoleMethods;

function install(channel) {
  outputs = { stdout: new Output('stdout', 1, channel), stderr: new Output('stderr', 2, channel) };
  for (const [name, value] of Object.entries(outputs)) {
    Object.defineProperty(process, name, { value, writable: true, enumerable: true, configurable: true });
  }
  consoleMethods = { ...console };

  for (const name of ['prompt', 'confirm', 'alert']) {
    const value = () => { throw new Error(`${name}() cannot work here: ${REFUSAL}`); };
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
  }
  const refuse = () => new Error(`readline cannot ask here: ${REFUSAL}`);
  const ask = readline.Interface.prototype.question;
  readline.Interface.prototype.question = function (...question) {
    if (this.input === process.stdin) throw refuse();
    return ask.apply(this, question);
  };
  const promised = readline.promises.Interface.prototype;
  const askLater = promised.question;
  promised.question = async function (...question) {
    if (this.input === process.stdin) throw refuse();
    return askLater.apply(this, question);
  };
}

function restore() {
  for (const [name, stream] of Object.entries(outputs)) {
    delete stream.write; // a cell may have replaced it to capture output
    if (process[name] !== stream) process[name] = stream;
  }
  Object.assign(console, consoleMethods);
}

module.exports = { install, restore };
