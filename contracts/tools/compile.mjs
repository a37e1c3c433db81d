// Compiles src/ with npm's solc and writes one <Name>.json per deployable contract and build.json (compiler and settings) into the
// folder named by the first argument. Run by `cargo xtask contracts`.
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";

const require = createRequire(import.meta.url);
const solc = require("solc");
const root = path.resolve(import.meta.dirname, "..");

/// Must equal foundry.toml, so that forge and the committed artefacts hold the same bytecode.
const settings = {
  optimizer: { enabled: true, runs: 200 },
  evmVersion: "prague",
  metadata: { bytecodeHash: "none", appendCBOR: false },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "storageLayout"] } },
};

function solidityFiles(folder) {
  return fs.readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return solidityFiles(name);
    return name.endsWith(".sol") ? [name] : [];
  });
}

const names = solidityFiles("src").sort();
const sources = Object.fromEntries(names.map((name) => [name, { content: fs.readFileSync(path.join(root, name), "utf8") }]));
const readImport = (name) => {
  const file = path.join(root, name.startsWith("@openzeppelin/") ? `node_modules/${name}` : name);
  return fs.existsSync(file) ? { contents: fs.readFileSync(file, "utf8") } : { error: `no file ${file}` };
};
const output = JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources, settings }), { import: readImport }));
// Warnings of our own files stop the build; those of the libraries are theirs.
const ours = (entry) => entry.sourceLocation?.file.startsWith("src/") && entry.severity !== "info";
const problems = (output.errors ?? []).filter((entry) => entry.severity === "error" || ours(entry));
if (problems.length > 0) {
  process.stderr.write(problems.map((entry) => entry.formattedMessage).join("\n"));
  process.exit(1);
}

/// The layout without the syntax-tree numbers of solc, which change when an unrelated line moves.
function plainLayout({ storage, types }) {
  const plain = (type) => types[type].label;
  const slot = ({ label, slot, offset, type }) => ({ label, slot: Number(slot), offset, type: plain(type) });
  const structs = Object.values(types ?? {}).filter((type) => type.members);
  return {
    storage: storage.map(slot),
    structs: Object.fromEntries(structs.map((type) => [type.label, type.members.map(slot)]).sort()),
  };
}

function artefact(built) {
  return {
    abi: built.abi,
    bytecode: `0x${built.evm.bytecode.object}`,
    deployedBytecode: `0x${built.evm.deployedBytecode.object}`,
    storageLayout: plainLayout(built.storageLayout),
  };
}

const folder = process.argv[2];
const write = (name, value) => fs.writeFileSync(path.join(folder, name), `${JSON.stringify(value, null, 1)}\n`);
for (const file of names.filter((name) => name.split("/").length === 2)) {
  const name = path.basename(file, ".sol");
  write(`${name}.json`, artefact(output.contracts[file][name]));
}
const { version } = require("@openzeppelin/contracts/package.json");
write("build.json", { solc: solc.version(), openzeppelin: version, settings: JSON.stringify({ ...settings, outputSelection: undefined }) });
