// New random state after this process was copied. V8's Math.random, OpenSSL's generator and two caches in front of it
// store their state in memory, so a copy of the process would draw the same values as the original. Node preloads
// this file in the main thread and in each worker, before any other code. It replaces Math.random with its own
// generator, reseeds OpenSSL's generator through an addon, and empties the caches by drawing all their values.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const { join } = require('node:path');
const v8 = require('node:v8');
const vm = require('node:vm');
const { syncBuiltinESMExports } = require('node:module');
const { isMainThread, getEnvironmentData, setEnvironmentData } = require('node:worker_threads');

// Captured before user code can change them.
const { openSync, readSync, closeSync } = fs;
const { randomInt, randomUUID } = crypto;
const { createContext, isContext, runInContext } = vm;
const { setFlagsFromString } = v8;
const { Buffer } = globalThis;
const { imul } = Math;
const { load, add } = Atomics;
const { defineProperty, getPrototypeOf } = Object;
const dlopen = process.dlopen.bind(process);
const addon = join(__dirname, `reseed-${process.arch}.node`);

// Node caches random bytes for this many values of randomUUID() and randomInt(). Drawing twice as many values always
// empties the caches.
const CACHED_UUIDS = 128;
const CACHED_INTS = 1024;

// How often the process was copied. All its threads share this memory.
const KEY = 'dormouse.copies';
const copies = getEnvironmentData(KEY) ?? new Int32Array(new SharedArrayBuffer(4));
const state = new Uint32Array(4);
let seeded = -1; // the number of copies when state was last filled
let emptied = load(copies, 0); // the number of copies when the caches were last emptied
let contexts = false; // whether there are vm contexts; they use V8's Math.random

function install() {
  if (isMainThread) setEnvironmentData(KEY, copies);
  replace(Math, 'random', () => next.bind()); // a bound function's source is [native code]
  replace(crypto, 'randomInt', cached);
  replace(crypto, 'randomUUID', cached);
  replace(getPrototypeOf(crypto.webcrypto), 'randomUUID', cached);
  replace(vm, 'createContext', () => newContext);
  replace(vm, 'runInNewContext', inNewContext);
  replace(vm.Script.prototype, 'runInNewContext', inNewContext);
  syncBuiltinESMExports();
}

/** Renews all random state of this process. Returns sentences about what could not be renewed, or "". */
function renew() {
  let complaint = '';
  try {
    dlopen({ exports: {} }, addon);
  } catch (error) {
    complaint = `The keys and random bytes of node:crypto are the same as in the other copies of this sandbox (${error.message}). Generate them in a new process, such as node -e "…".\n`;
  }
  add(copies, 0, 1);
  if (contexts) complaint += 'The values of Math.random in existing vm contexts are the same as in the other copies of this sandbox.\n';
  contexts = false;
  return complaint;
}

/** Returns a number in [0, 1) with 53 random bits, from two values of xoshiro128**. */
function next() {
  return ((draw() >>> 5) * 0x4000000 + (draw() >>> 6)) / 0x20000000000000;
}

function draw() {
  const now = load(copies, 0);
  if (seeded !== now) {
    fill(Buffer.from(state.buffer));
    seeded = now;
  }
  const one = state[1];
  const product = imul(one, 5);
  state[2] ^= state[0];
  state[3] ^= one;
  state[1] ^= state[2];
  state[0] ^= state[3];
  state[2] ^= one << 9;
  state[3] = (state[3] << 11) | (state[3] >>> 21);
  return imul((product << 7) | (product >>> 25), 9) >>> 0;
}

function cached(native) {
  return function (...parameters) {
    const now = load(copies, 0);
    if (emptied !== now) {
      for (let i = 0; i < 2 * CACHED_UUIDS; i++) randomUUID();
      for (let i = 0; i < 2 * CACHED_INTS; i++) randomInt(2);
      emptied = now;
    }
    return native.apply(this, parameters);
  };
}

function inNewContext(native) {
  return function (...parameters) {
    const script = this instanceof vm.Script;
    const [object = {}, options] = script ? parameters : parameters.slice(1);
    if (object === null || typeof object !== 'object' || isContext(object)) return native.apply(this, parameters);
    const { contextName: name, contextOrigin: origin, contextCodeGeneration: codeGeneration, microtaskMode } = Object(options);
    const made = newContext(object, { name, origin, codeGeneration, microtaskMode });
    return script ? native.call(this, made, options) : native.call(this, parameters[0], made, options);
  };
}

/**
 * Creates a context whose Math.random V8 seeds with a number from draw(). V8's default seeds come from a generator
 * that can't be renewed.
 */
function newContext(...parameters) {
  const context = createContext(...parameters);
  contexts = true;
  setFlagsFromString(`--random-seed=${(draw() >>> 1) || 1}`);
  try {
    runInContext('Math.random()', context); // V8 reads the seed flag when it draws the first value
  } catch {
    // The user's object has a Math of its own, without this function.
  }
  setFlagsFromString('--random-seed=0');
  return context;
}

function replace(object, name, make) {
  const native = object[name];
  if (typeof native !== 'function') return;
  const made = make(native);
  for (const property of ['name', 'length']) defineProperty(made, property, { value: native[property], configurable: true });
  defineProperty(object, name, { value: made });
}

/** Fills a buffer with random bytes from the operating system, which differ in every copy of this process. */
function fill(buffer) {
  const file = openSync('/dev/urandom');
  try {
    for (let at = 0; at < buffer.length;) at += readSync(file, buffer, at, buffer.length - at, null);
  } finally {
    closeSync(file);
  }
  return buffer;
}

install();

module.exports = { renew };
