// Random values that two copies of this process do not share. V8's Math.random and OpenSSL's generator keep their state in memory and
// have no way to take another, so a copy of it would give what the original gives. Math.random is a generator of our own from the
// start, which can be given new state; crypto is Node's until renew(), and then what it gives is mixed with the operating system's.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const { syncBuiltinESMExports } = require('node:module');

// Captured before user code can change them.
const { openSync, readSync, closeSync } = fs;
const { Buffer } = globalThis;
const { imul } = Math;
const { nextTick } = process;
const { defineProperty, getPrototypeOf } = Object;

const state = new Uint32Array(4);
let copied = false;
let warned = false;

function install() {
  fill(Buffer.from(state.buffer));
  replace(Math, 'random', () => next.bind()); // a bound function's source is [native code]
  replace(crypto, 'randomBytes', bytes);
  for (const alias of ['pseudoRandomBytes', 'rng', 'prng']) replace(crypto, alias, () => crypto.randomBytes);
  replace(crypto, 'randomFillSync', filled);
  replace(crypto, 'randomFill', filledLater);
  replace(crypto, 'randomInt', integer);
  replace(crypto, 'randomUUID', uuid);
  const web = getPrototypeOf(crypto.webcrypto);
  replace(web, 'getRandomValues', values); // crypto.getRandomValues asks it, too
  replace(web, 'randomUUID', uuid);
  for (const name of ['generateKey', 'generateKeySync', 'generateKeyPair', 'generateKeyPairSync']) replace(crypto, name, keys);
  for (const owner of [crypto.ECDH, crypto.DiffieHellman, crypto.DiffieHellmanGroup]) replace(owner.prototype, 'generateKeys', keys);
  replace(getPrototypeOf(crypto.webcrypto.subtle), 'generateKey', keys);
  syncBuiltinESMExports();
}

/** From now on nothing comes as in another copy of this process. */
function renew() {
  copied = true;
  fill(Buffer.from(state.buffer));
}

/** A number of 53 bits, of two values of xoshiro128**. */
function next() {
  return ((draw() >>> 5) * 0x4000000 + (draw() >>> 6)) / 0x20000000000000;
}

function draw() {
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

// What follows makes a function of Node's into one that we can answer for. Node's own is called all the same: it checks the arguments.

function bytes(native) {
  return function (size, callback) {
    if (!copied || (callback !== undefined && typeof callback !== 'function')) return native.apply(this, arguments);
    if (!callback) return mix(native(size));
    return native(size, (error, buffer) => callback(error, buffer && mix(buffer)));
  };
}

function filled(native) {
  return function (buffer, offset, size) {
    native.apply(this, arguments);
    if (copied) mix(buffer, offset, size);
    return buffer;
  };
}

function filledLater(native) {
  return function (...parameters) {
    const callback = parameters.pop();
    const [buffer, offset, size] = parameters;
    if (!copied || typeof callback !== 'function') return native.apply(this, arguments);
    return native(...parameters, (error) => callback(error, error ? undefined : mix(buffer, offset, size)));
  };
}

function values(native) {
  return function (array) {
    native.apply(this, arguments);
    return copied ? mix(array) : array;
  };
}

function integer(native) {
  return function (min, max, callback) {
    const [low, high, done] = max === undefined || typeof max === 'function' ? [0, min, max] : [min, max, callback];
    if (!copied || (done !== undefined && typeof done !== 'function')) return native.apply(this, arguments);
    native(low, high);
    const range = high - low;
    let value;
    do value = fill(Buffer.alloc(6)).readUIntBE(0, 6); while (value >= 2 ** 48 - (2 ** 48 % range));
    value = low + (value % range);
    if (!done) return value;
    nextTick(done, undefined, value);
  };
}

function uuid(native) {
  return function () {
    const text = native.apply(this, arguments);
    if (!copied) return text;
    const hex = mix(Buffer.from(text.replaceAll('-', ''), 'hex'));
    hex[6] = (hex[6] & 0x0f) | 0x40;
    hex[8] = (hex[8] & 0x3f) | 0x80;
    return hex.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
  };
}

// These draw from OpenSSL's generator where nothing can be mixed in.
function keys(native) {
  return function (...parameters) {
    if (copied && !warned) {
      warned = true;
      process.emitWarning('this process was copied with its sandbox: keys that it generates may come the same in the other copies. ' +
        'Generate them in a new process, such as node -e "…".');
    }
    return native.apply(this, parameters);
  };
}

function replace(object, name, make) {
  const native = object[name];
  if (typeof native !== 'function') return;
  const made = make(native);
  for (const property of ['name', 'length']) defineProperty(made, property, { value: native[property], configurable: true });
  defineProperty(object, name, { value: made });
}

/** Mixes the operating system's bytes into size elements of buffer from offset on, which default to all, as in randomFillSync. */
function mix(buffer, offset = 0, size) {
  const width = buffer.BYTES_PER_ELEMENT || 1;
  const memory = buffer.buffer ?? buffer;
  const start = (buffer.byteOffset ?? 0) + offset * width;
  const length = size === undefined ? buffer.byteLength - offset * width : size * width;
  const view = Buffer.from(memory, start, length);
  const other = fill(Buffer.alloc(length));
  for (let i = 0; i < length; i++) view[i] ^= other[i];
  return buffer;
}

/** Fills a buffer from the operating system, which no copy of this process shares. */
function fill(buffer) {
  const file = openSync('/dev/urandom');
  try {
    for (let at = 0; at < buffer.length;) at += readSync(file, buffer, at, buffer.length - at, null);
  } finally {
    closeSync(file);
  }
  return buffer;
}

module.exports = { install, renew };
