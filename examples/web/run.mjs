// The same run under Node: node run.mjs [--runtime onnxruntime-node|onnxruntime-web] [--updates N]
// [--lr X] [--folder FOLDER] [--modules FOLDER] [--out FILE]; prints JSON. See README.md.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { digits, readSafetensors, Run } from "./train.mjs";

const text = (fallback) => ({ type: "string", default: fallback });
const { values: given } = parseArgs({
  options: {
    runtime: text("onnxruntime-node"), updates: text("50"), lr: text("0.01"), folder: text("."), modules: text("."),
    out: { type: "string" },
  },
});
const open = (name) => new Uint8Array(readFileSync(join(given.folder, name)));
const require = createRequire(resolve(given.modules, "modules.cjs"));

try {
  const ort = require(given.runtime);
  const version = ort.env.versions[given.runtime.replace("onnxruntime-", "")] ?? ort.env.versions.common;
  if (given.runtime === "onnxruntime-web") ort.env.wasm.numThreads = 1;
  const run = await Run.start(ort, open("step.onnx"), open("start.safetensors"), { intraOpNumThreads: 1 });
  const { tensors } = readSafetensors(open("digits.safetensors"));
  const losses = [];
  const start = performance.now();
  for (let i = 0; i < Number(given.updates); i++) {
    losses.push(await run.update(digits(ort, tensors, run.updates), { lr: Number(given.lr) }));
  }
  const ms = (performance.now() - start) / losses.length;
  if (given.out) writeFileSync(given.out, await run.bundle(`${given.runtime} ${version} under Node`));
  console.log(JSON.stringify({ runtime: given.runtime, version, step: run.step, ms, losses }));
} catch (error) {
  console.error(`run.mjs: ${error.message}`);
  process.exitCode = 2;
}
