// Turns a cell into scripts that behave as at a prompt:
//
//   - Top-level declarations persist and can be repeated: const, let and class become var.
//   - `await` works at the top level: the cell becomes an async function, and its declarations become assignments to globals. Its
//     function declarations become a script of their own, so that they stay global and hoisted.
//   - Static imports are returned as a list and are loaded before the rest runs. import() and import.meta become globals.
//
// All edits keep every line at its number, so that errors name the user's line. The parser is the one that Node's own
// REPL uses.
'use strict';

const vm = require('node:vm');
const { frame } = require('./values.cjs');

const PREFIX = '(async () => {';
const RETURN = 'return (';

function parser() {
  try {
    return require('internal/deps/acorn/acorn/dist/acorn'); // node --expose-internals
  } catch {
    return require('acorn');
  }
}

const { parse } = parser();
const OPTIONS = {
  ecmaVersion: 'latest', sourceType: 'script', allowHashBang: true,
  allowAwaitOutsideFunction: true, allowImportExportEverywhere: true,
};

/**
 * Returns { filename, names, imports, scripts, isAsync, hasResult }: the globals to declare, the modules to import,
 * and the scripts to run afterwards. If hasResult is true, the value of the last script is the cell's result.
 */
function transform(code, number) {
  const filename = `cell-${number}.js`;
  const plan = { filename, names: [], imports: [], scripts: [{ source: code }], isAsync: false, hasResult: true };
  let tree;
  try {
    tree = parseCell(code);
  } catch (error) {
    if (compiles(code)) return plan; // syntax that is newer than the parser
    throw syntaxError(error, code, filename);
  }
  if (tree.code !== undefined) code = tree.code;
  return new Rewriter(code, tree, plan).rewrite();
}

/** Parses code. `{a: 1}` alone is parsed as an object, as in Node's REPL, and not as a block with a label. */
function parseCell(code) {
  if (/^\s*\{/.test(code) && !/;\s*$/.test(code)) {
    const wrapped = `(${code}\n)`;
    try {
      return Object.assign(parse(wrapped, OPTIONS), { code: wrapped });
    } catch { /* a block after all */ }
  }
  return parse(code, OPTIONS);
}

class Rewriter {
  constructor(code, tree, plan) {
    this.code = code;
    this.tree = tree;
    this.plan = plan;
    this.edits = []; // { start, end, text }
    this.functions = []; // top-level function declarations
    this.vars = []; // var declarations in blocks, [node, its parent]
  }

  rewrite() {
    const { plan, tree } = this;
    this.walk(tree, null, false);
    const statements = tree.body.map((node) => this.withoutExport(node)).filter(Boolean);
    for (const node of statements) this.topLevel(node);
    const last = statements.filter(({ type }) => type !== 'EmptyStatement' && type !== 'FunctionDeclaration').pop();
    plan.hasResult = last?.type === 'ExpressionStatement';
    if (!plan.isAsync) {
      plan.scripts = [{ source: apply(this.code, this.edits) }];
      return plan;
    }
    for (const [node, parent] of this.vars) this.assign(node, parent);
    if (plan.hasResult) {
      this.edit(last.start, last.start, RETURN);
      const line = this.code.slice(0, last.start).split('\n').length;
      plan.shift = { line, after: last.start - this.code.lastIndexOf('\n', last.start - 1) - 1, by: RETURN.length };
      this.close(last, ')');
    }
    const body = apply(this.code, [...this.edits, ...this.functions.map((node) => this.blank(node.start, node.end))]);
    plan.scripts = [{ source: `${PREFIX}${body}\n})()`, columnOffset: -PREFIX.length }];
    if (this.functions.length) plan.scripts.unshift({ source: this.onlyFunctions() });
    return plan;
  }

  edit(start, end, text) {
    this.edits.push({ start, end, text });
  }

  /** Appends text to a statement and ends it with a semicolon, even if the code has none. */
  close(node, text) {
    const end = this.code[node.end - 1] === ';' ? node.end - 1 : node.end;
    this.edit(end, node.end, `${text};`);
  }

  blank(start, end) {
    return { start, end, text: this.code.slice(start, end).replace(/[^\n]/g, ' ') };
  }

  /**
   * Returns a script with the function declarations at their own lines and columns, and directives such as "use
   * strict", but nothing else.
   */
  onlyFunctions() {
    const kept = [...this.tree.body.filter((node) => node.directive), ...this.functions];
    const blanks = [];
    let position = 0;
    for (const { start, end } of kept) {
      blanks.push(this.blank(position, start));
      position = end;
    }
    blanks.push(this.blank(position, this.code.length));
    const inside = this.edits.filter((edit) => this.functions.some(({ start, end }) => start < edit.start && edit.end < end));
    return apply(this.code, [...blanks, ...inside]);
  }

  /** Finds the nodes that matter at any depth: await outside functions, var in blocks, import() and import.meta. */
  walk(node, parent, inFunction) {
    switch (node.type) {
      case 'AwaitExpression':
        this.plan.isAsync ||= !inFunction;
        break;
      case 'ForOfStatement':
        this.plan.isAsync ||= node.await && !inFunction;
        break;
      case 'VariableDeclaration':
        if (node.kind === 'var' && !inFunction && parent.type !== 'Program' && parent.type !== 'ExportNamedDeclaration') {
          this.vars.push([node, parent]);
        }
        break;
      case 'ImportExpression':
        this.edit(node.start, node.start + 'import'.length, '_dormouse_import');
        break;
      case 'MetaProperty':
        if (node.meta.name === 'import') this.edit(node.start, node.end, '_dormouse_meta');
        break;
    }
    const isFunction = /Function|StaticBlock/.test(node.type);
    for (const [key, child] of Object.entries(node)) {
      const inside = inFunction || isFunction || (node.type === 'PropertyDefinition' && key === 'value');
      for (const each of Array.isArray(child) ? child : [child]) {
        if (typeof each?.type === 'string') this.walk(each, node, inside);
      }
    }
  }

  /** Removes `export`, because a cell has no importers, and returns the declaration after it, or null if there is none. */
  withoutExport(node) {
    if (!node.type.startsWith('Export')) return node;
    const { declaration } = node;
    if (!declaration) {
      if (node.source) this.plan.imports.push({ source: node.source.value, bindings: [] });
      this.edits.push(this.blank(node.start, node.end));
      return null;
    }
    if (node.type === 'ExportNamedDeclaration' || (declaration.id && declaration.type.endsWith('Declaration'))) {
      this.edits.push(this.blank(node.start, declaration.start));
      return declaration;
    }
    this.edit(node.start, declaration.start, 'exports.default = ');
    this.close(node, '');
    return { ...node, type: 'ExportDefault' };
  }

  topLevel(node) {
    const { plan } = this;
    switch (node.type) {
      case 'ImportDeclaration':
        this.import(node);
        break;
      case 'FunctionDeclaration':
        plan.names.push(node.id.name);
        this.functions.push(node);
        break;
      case 'ClassDeclaration':
        plan.names.push(node.id.name);
        this.edit(node.start, node.start, `${plan.isAsync ? '' : 'var '}${node.id.name} = `);
        this.edit(node.end, node.end, ';');
        break;
      case 'VariableDeclaration':
        for (const { id } of node.declarations) namesIn(id, plan.names);
        if (plan.isAsync) this.assign(node, this.tree);
        else this.edit(node.start, node.start + node.kind.length, 'var'.padEnd(node.kind.length));
        break;
    }
  }

  import(node) {
    const bindings = node.specifiers.map((specifier) => ({
      local: specifier.local.name,
      imported: {
        ImportDefaultSpecifier: 'default',
        ImportNamespaceSpecifier: '*',
        ImportSpecifier: specifier.imported?.name ?? specifier.imported?.value,
      }[specifier.type],
    }));
    this.plan.names.push(...bindings.map(({ local }) => local));
    const attributes = node.attributes?.length
      ? { with: Object.fromEntries(node.attributes.map(({ key, value }) => [key.name ?? key.value, value.value])) }
      : undefined;
    this.plan.imports.push({ source: node.source.value, attributes, bindings });
    this.edits.push({ ...this.blank(node.start, node.end), text: `;${this.blank(node.start + 1, node.end).text}` });
  }

  /**
   * Turns `const a = 1, {b} = c` into `void (a = 1), ({b} = c);`, because the declaration would be local in an async
   * function.
   */
  assign(node, parent) {
    for (const { id } of node.declarations) namesIn(id, this.plan.names);
    const keywordEnd = node.start + node.kind.length;
    if (parent.type === 'ForInStatement' || parent.type === 'ForOfStatement') {
      if (parent.left === node) return this.edit(node.start, keywordEnd, ' '.repeat(node.kind.length));
    }
    this.edit(node.start, keywordEnd, 'void ');
    for (const { start, end, init } of node.declarations) {
      if (!init && node.kind === 'var') continue; // the variable keeps its value
      this.edit(start, start, '(');
      this.edit(end, end, init ? ')' : ' = undefined)');
    }
    if (parent.type !== 'ForStatement' || parent.body === node) this.close(node, '');
  }
}

/** The names that a pattern such as `{a, b: [c = 1, ...d]}` binds. */
function namesIn(pattern, names) {
  switch (pattern?.type) {
    case 'Identifier': names.push(pattern.name); break;
    case 'ObjectPattern': pattern.properties.forEach((each) => namesIn(each.value ?? each.argument, names)); break;
    case 'ArrayPattern': pattern.elements.forEach((each) => namesIn(each, names)); break;
    case 'AssignmentPattern': namesIn(pattern.left, names); break;
    case 'RestElement': namesIn(pattern.argument, names); break;
  }
}

/** Applies edits. An edit that begins inside an earlier one is ignored. */
function apply(code, edits) {
  const ordered = edits.map((edit, order) => ({ ...edit, order }))
    .sort((a, b) => a.start - b.start || (b.end === b.start) - (a.end === a.start) || a.order - b.order);
  let result = '';
  let position = 0;
  for (const { start, end, text } of ordered) {
    if (start < position) continue;
    result += code.slice(position, start) + text;
    position = end;
  }
  return result + code.slice(position);
}

function compiles(code) {
  try {
    new vm.Script(code);
    return true;
  } catch {
    return false;
  }
}

/** Returns the parser's error in V8's words, with the line and a caret. */
function syntaxError(error, code, filename) {
  if (!error.loc) return error;
  const { line, column } = error.loc;
  let message = error.message.replace(/ \(\d+:\d+\)$/, '');
  if (message === 'Unexpected token') {
    const token = /^(?:[\w$]+|\S)/.exec(code.slice(error.pos));
    message = token ? `Unexpected token '${token[0]}'` : 'Unexpected end of input';
  }
  const described = new SyntaxError(message);
  described.isCellSyntaxError = true;
  described.traceback = `${frame(filename, line, code.split('\n')[line - 1], column)}SyntaxError: ${message}`;
  return described;
}

module.exports = { transform };
