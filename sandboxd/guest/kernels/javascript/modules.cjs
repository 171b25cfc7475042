// Provides require() and import() as if the cell were a file in the directory in which the kernel was started.
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
    // transform.cjs replaces import() and import.meta with these.
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

/** Suppresses Node's warning that the loader of our cells is experimental, because the user can do nothing about it. */
function quiet() {
  const emitWarning = process.emitWarning;
  process.emitWarning = function (warning, ...details) {
    if (!`${warning}`.includes('USE_MAIN_CONTEXT_DEFAULT_LOADER')) emitWarning.call(this, warning, ...details);
  };
}

/** Loads the modules of static imports and stores the imported names as globals. */
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
  // Node only detects those exports of a CommonJS module that it finds without running the module.
  const whole = namespace.default;
  if (whole !== null && typeof whole === 'object' && name in whole) return whole[name];
  throw new SyntaxError(`The requested module '${source}' does not provide an export named '${name}'`);
}

/**
 * Returns import() for cells. It uses Node's own resolution first, and then that of require(), which also uses
 * NODE_PATH.
 */
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
