// Converts values and errors to text and to MIME bundles, within the protocol's limits.
'use strict';

const path = require('node:path');
const util = require('node:util');

const MAX_PLAIN = 1 << 20;
const MAX_VALUE = 8 << 20;
const MAX_BUNDLE = 12 << 20;
const MAX_TRACEBACK = 64 << 10;
const KEPT_SOURCES = 2000;

const BINARY = new Set(['image/png', 'image/jpeg', 'image/gif', 'image/webp', 'application/pdf']);
const SIGNATURES = { 'image/png': [0x89, 0x50, 0x4e, 0x47], 'image/jpeg': [0xff, 0xd8, 0xff], 'image/gif': [0x47, 0x49, 0x46, 0x38] };
const JUPYTER = Symbol.for('Jupyter.display'); // Deno's convention
const MIME = /^[a-z]+\/[\w.+-]+$/;

const { inspect, types } = util;
const { stringify } = JSON;
const { Buffer } = globalThis;
const { keys, entries } = Object;

/** Returns the bundle of a cell's last value. */
function resultBundle(value) {
  return clean({ 'text/plain': text(value), ...image(value), ...own(value) });
}

/** Returns the bundle of a value passed to display(), which may already be a bundle. */
function displayBundle(value) {
  return isBundle(value) ? clean(value) : resultBundle(value);
}

function isBundle(value) {
  if (!value || typeof value !== 'object' || types.isProxy(value)) return false;
  const names = keys(value);
  return names.length > 0 && names.every((name) => MIME.test(name));
}

function image(value) {
  if (!types.isUint8Array(value)) return {};
  for (const [mime, signature] of entries(SIGNATURES)) {
    if (signature.every((byte, index) => value[index] === byte)) return { [mime]: value };
  }
  return {};
}

function own(value) {
  try {
    if (typeof value?.[JUPYTER] === 'function') return value[JUPYTER]();
  } catch { /* a getter that throws: the text has to do */ }
  return {};
}

/**
 * Returns a bundle in the protocol's form: bytes as base64, JSON as its text. Values that are too long are replaced
 * by a note.
 */
function clean(data) {
  const cleaned = {};
  const notes = [];
  let total = 0;
  for (const [mime, value] of entries(data)) {
    let content = encode(mime, value);
    if (content === undefined) continue;
    if (mime === 'text/plain') content = cut(content, MAX_PLAIN);
    if (content.length > MAX_VALUE || total + content.length > MAX_BUNDLE) {
      notes.push(`[${mime} of ${content.length} characters left out: too long to show. Write it to a file instead.]`);
      continue;
    }
    total += content.length;
    cleaned[mime] = content;
  }
  if (notes.length) cleaned['text/plain'] = [cleaned['text/plain'], ...notes].filter(Boolean).join('\n');
  return cleaned;
}

function encode(mime, value) {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'string') return BINARY.has(mime) ? value.replace(/\s+/g, '') : value;
  if (ArrayBuffer.isView(value)) {
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    return bytes.toString(BINARY.has(mime) ? 'base64' : 'utf8');
  }
  return stringify(value);
}

/** Returns value as text, as Node's REPL shows it. */
function text(value) {
  try {
    const shown = inspect(value, { showProxy: true });
    return cut(types.isNativeError(value) ? usersFrames(shown) : shown, MAX_PLAIN);
  } catch (error) {
    return `[${typeof value} that cannot be shown: ${safely(() => error.message)}]`;
  }
}

/** Returns text. If it is longer than limit, returns its beginning and end, and how much is missing between them. */
function cut(text, limit) {
  if (text.length <= limit) return text;
  const half = limit >> 1;
  return `${text.slice(0, half)}\n… [${text.length - 2 * half} characters left out] …\n${text.slice(-half)}`;
}

const sources = new Map(); // file name of a cell → its lines

/**
 * Stores a cell's lines for its errors. shift describes where text that transform inserted into a line has moved the
 * columns.
 */
function remember(filename, code, shift) {
  sources.set(filename, Object.assign(code.split('\n'), { shift }));
  if (sources.size > KEPT_SOURCES) sources.delete(sources.keys().next().value);
}

/** Returns the name, message and traceback of any thrown value. */
function describeError(error) {
  if (error?.isCellSyntaxError) return { name: 'SyntaxError', message: error.message, traceback: error.traceback };
  if (!types.isNativeError(error) && !(safely(() => error instanceof Error))) {
    return { name: 'Error', message: cut(text(error), 1 << 14), traceback: cut(`Uncaught ${text(error)}`, MAX_TRACEBACK) };
  }
  const name = `${safely(() => error.name)}`;
  const message = cut(`${safely(() => error.message)}`, 1 << 14);
  const shown = safely(() => usersFrames(inspect(error))) || `${name}: ${message}`;
  return { name, message, traceback: cut(codeFrame(safely(() => error.stack)) + shown, MAX_TRACEBACK) };
}

/** Returns an inspected error without our frames and Node's, and with repeated frames of a recursion in one line. */
function usersFrames(shown) {
  const lines = [];
  let repeated = 0;
  for (const line of shown.split('\n')) {
    if (isOurs(line)) {
      if (line.endsWith(' {')) lines[lines.length - 1] += ' {'; // the error's own properties follow in the next lines
    } else if (line.startsWith('    at ') && line === lines.at(-1)) {
      repeated++;
    } else {
      if (repeated) lines.push(`    … ${repeated} more like it`);
      repeated = 0;
      lines.push(line);
    }
  }
  if (repeated) lines.push(`    … ${repeated} more like it`);
  return lines.join('\n');
}

const IMPORTER = path.join(process.cwd(), 'cell.js'); // see modules.cjs

function isOurs(line) {
  if (!/^\s+at /.test(line)) return false;
  const place = /(cell-\d+\.js):(\d+):\d+\)?/.exec(line);
  // A line after the cell's last is the end of the async function around the cell.
  if (place && +place[2] > sources.get(place[1])?.length) return true;
  return line.includes(__dirname) || line.includes(IMPORTER) || /\(?node:(internal|vm\b|events:)/.test(line);
}

/** Returns the cell's line that threw, with a caret under the place, as Node shows it for a file. */
function codeFrame(stack) {
  const place = typeof stack === 'string' && /^\s+at .*?(cell-\d+\.js):(\d+):(\d+)/m.exec(stack);
  const lines = place && sources.get(place[1]);
  const line = lines?.[place[2] - 1];
  if (!line) return '';
  let column = place[3] - 1;
  if (lines.shift?.line === +place[2] && column >= lines.shift.after + lines.shift.by) column -= lines.shift.by;
  return frame(place[1], +place[2], line, column);
}

function frame(filename, number, line, column) {
  if (line.length > 500) return `${filename}:${number}\n\n`;
  return `${filename}:${number}\n${line}\n${line.slice(0, column).replace(/\S/g, ' ')}^\n\n`;
}

function safely(get) {
  try {
    return get();
  } catch {
    return '';
  }
}

module.exports = { resultBundle, displayBundle, describeError, remember, cut, frame };
