// require() and import() as if the cell were a file in the directory that the kernel was started in.
'use strict';

const Module = require('node:module');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const vm = require('node:vm');

const { defineProperty } = Object;

function install() {
  const filename = path.join(process.cwd(), 'cell.js');
  const require = Module.createRequire(filename);
  const module = new Module(filename);
  module.filename = filename;
  module.paths = Module._nodeModulePaths(path.dirname(filename));
  module.loaded = true;
  require.main = module; // if (require.main === module) main()

  quiet();
  const load = loader(filename, require);
  const globals = {
    require, module, exports: module.exports, __filename: filename, __dirname: path.dirname(filename),
    // What transform.cjs makes of import() and import.meta.
    _dormouse_import: load,
    _dormouse_meta: {
      url: pathToFileURL(filename).href, filename, dirname: path.dirname(filename),
      resolve: (name) => pathToFileURL(require.resolve(name)).href,
    },
  };
  const restore = () => {
    for (const [name, value] of Object.entries(globals)) {
      if (globalThis[name] === undefined) defineProperty(globalThis, name, { value, writable: true, configurable: true });
    }
  };
  const constant = vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER;
  return {
    restore,
    load: (imports) => loadAll(imports, load),
    scriptOptions: { importModuleDynamically: constant ?? load }, // for import() inside eval
  };
}

/** Node calls the loader that we use for cells experimental, to the user, who can do nothing about it. */
function quiet() {
  const emitWarning = process.emitWarning;
  process.emitWarning = function (warning, ...details) {
    if (!`${warning}`.includes('USE_MAIN_CONTEXT_DEFAULT_LOADER')) emitWarning.call(this, warning, ...details);
  };
}

/** Loads what static imports name, and makes globals of it. */
async function loadAll(imports, load) {
  for (const { source, attributes, bindings } of imports) {
    const namespace = await load(source, attributes);
    for (const { local, imported } of bindings) {
      globalThis[local] = imported === '*' ? namespace : pick(namespace, imported, source);
    }
  }
}

function pick(namespace, name, source) {
  if (name in namespace) return namespace[name];
  // Of a CommonJS module, Node sees only the exports that it can tell without running it.
  const whole = namespace.default;
  if (whole !== null && typeof whole === 'object' && name in whole) return whole[name];
  throw new SyntaxError(`The requested module '${source}' does not provide an export named '${name}'`);
}

/** import() for cells: Node's own resolution first, then that of require(), which also knows NODE_PATH. */
function loader(filename, require) {
  const constant = vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER;
  const native = constant &&
    new vm.Script('(name, options) => import(name, options)', { filename, importModuleDynamically: constant }).runInThisContext();

  return async (name, options) => {
    name = `${name}`;
    if (/^(node|data|file|https?):/.test(name) || Module.isBuiltin(name)) return import(name, options);
    let failure;
    if (native) {
      try {
        return await native(name, options);
      } catch (error) {
        if (!['ERR_MODULE_NOT_FOUND', 'ERR_UNSUPPORTED_DIR_IMPORT'].includes(error?.code)) throw error;
        failure = error;
      }
    }
    let resolved;
    try {
      resolved = require.resolve(name);
    } catch (error) {
      throw failure ?? error;
    }
    return import(pathToFileURL(resolved).href, options);
  };
}

module.exports = { install };
