// Training with a graph of `optexport training-graph`, in a page or under Node, on any onnxruntime for
// JavaScript. The run starts from a bundle (`optexport convert run.pt start.safetensors`) and ends as one.

const KINDS = {
  F64: ["float64", Float64Array], F32: ["float32", Float32Array], I64: ["int64", BigInt64Array],
  I32: ["int32", Int32Array], U8: ["uint8", Uint8Array], BOOL: ["bool", Uint8Array],
};
const CODES = Object.fromEntries(Object.entries(KINDS).map(([code, [kind]]) => [kind, code]));

/** A safetensors file: {tensors: name -> {type, dims, data}, metadata}. */
export function readSafetensors(bytes) {
  const size = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const { __metadata__: metadata = {}, ...rows } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [first, last] }] of Object.entries(rows)) {
    if (!(dtype in KINDS)) throw new Error(`tensor ${name}: expected ${Object.keys(KINDS).join(", ")}, found ${dtype}`);
    const [type, Held] = KINDS[dtype];
    // A copy: typed arrays have to begin at a multiple of their element's size.
    const data = new Held(bytes.slice(8 + size + first, 8 + size + last).buffer);
    tensors[name] = { type, dims: shape, data };
  }
  return { tensors, metadata };
}

/** The bytes of a safetensors file, tensors sorted by name. */
export function writeSafetensors(tensors, metadata) {
  const header = { __metadata__: metadata };
  const parts = [];
  let end = 0;
  for (const name of Object.keys(tensors).sort()) {
    const { type, dims, data } = tensors[name];
    parts.push([end, bytesOf(data)]);
    header[name] = { dtype: CODES[type], shape: [...dims], data_offsets: [end, (end += data.byteLength)] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const size = Math.ceil(text.length / 8) * 8; // filled with spaces, so that tensors are aligned
  const out = new Uint8Array(8 + size + end).fill(32);
  new DataView(out.buffer).setBigUint64(0, BigInt(size), true);
  out.set(text, 8);
  for (const [at, part] of parts) out.set(part, 8 + size + at);
  return out;
}

const bytesOf = (data) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

// Node has it as a global from version 20 on.
const { subtle } = globalThis.crypto ?? (await import("node:crypto")).webcrypto;

async function sha256(data) {
  const digest = await subtle.digest("SHA-256", bytesOf(data).slice());
  return [...new Uint8Array(digest)].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/** A run: a training graph, and the tensors that it moves on. */
export class Run {
  /**
   * ort: the module onnxruntime-web or onnxruntime-node. graph, bundle: bytes of the two files.
   * options: of the session ({executionProviders: ["wasm"]}).
   */
  static async start(ort, graph, bundle, options = {}) {
    const run = new Run();
    const { tensors, metadata } = readSafetensors(bundle);
    if (!("optexport" in metadata)) throw new Error("expected a bundle, found a safetensors file without optexport's manifest");
    Object.assign(run, { ort, tensors, metadata, updates: 0, manifest: JSON.parse(metadata.optexport) });
    run.session = await ort.InferenceSession.create(graph, options);
    // Tensor of the bundle -> name of the graph's input.
    run.inputs = {};
    for (const { name, slots = {} } of run.manifest.parameters) {
      run.inputs[name] = name;
      for (const slot of Object.keys(slots)) run.inputs[`${name}/${slot}`] = `${name}.${slot}`;
    }
    for (const name of Object.keys(run.manifest.buffers ?? {})) run.inputs[name] = name;
    const held = new Set(Object.values(run.inputs));
    const moved = run.session.outputNames.filter((o) => o.endsWith(".new") && o !== "step.new").map((o) => o.slice(0, -4));
    const missing = moved.find((name) => !held.has(name)) ?? [...held].find((name) => name !== "seed" && !moved.includes(name));
    if (missing) throw new Error(`${missing}: expected it in the bundle and in the graph, found it in one; they are of two runs`);
    run.moved = new Set(moved);
    run.state = Object.fromEntries(Object.entries(run.inputs).map(([key, name]) => {
      const { type, data, dims } = tensors[key];
      return [name, new ort.Tensor(type, data, dims)];
    }));
    return run;
  }

  /** Completed updates. */
  get step() {
    return this.updates + Math.max(...this.manifest.parameters.map((p) => Number(p.step ?? 0)));
  }

  /** One update, and the loss before it. data: the model's inputs and `label`, as ort.Tensor by name; scalars: `lr`, … */
  async update(data, scalars) {
    const { Tensor } = this.ort;
    const feeds = { ...data, step: new Tensor("int64", BigInt64Array.of(BigInt(this.step)), []) };
    for (const name of this.moved) feeds[name] = this.state[name];
    if (this.session.inputNames.includes("seed")) {
      const seed = (this.state.seed?.data[0] ?? 0n) + BigInt(this.step);
      feeds.seed = new Tensor("int64", BigInt64Array.of(seed), []);
    }
    for (const [name, value] of Object.entries(scalars)) feeds[name] = new Tensor("float32", Float32Array.of(value), []);
    const out = await this.session.run(feeds);
    for (const name of this.moved) this.state[name] = out[`${name}.new`];
    this.updates += 1;
    return out.loss.data[0];
  }

  /** The run as it stands, as bytes of a bundle: the manifest that it started from, with new steps and sums. */
  async bundle(by) {
    const manifest = structuredClone(this.manifest);
    const tensors = {};
    for (const [key, name] of Object.entries(this.inputs)) {
      const { type, dims, data } = this.state[name];
      tensors[key] = { type, dims, data };
    }
    const sum = async (described, key) => (described.sha256 = await sha256(tensors[key].data));
    for (const p of manifest.parameters) {
      p.step = String(Number(p.step ?? 0) + this.updates);
      await sum(p.value, p.name);
      for (const [slot, described] of Object.entries(p.slots ?? {})) await sum(described, `${p.name}/${slot}`);
    }
    for (const [name, described] of Object.entries(manifest.buffers ?? {})) await sum(described, name);
    manifest.provenance = [...(manifest.provenance ?? []), `${this.updates} updates by ${by}`];
    return writeSafetensors(tensors, { ...this.metadata, optexport: JSON.stringify(manifest) });
  }
}

/** Batch number `at` of the digits that make.py writes: {pixels, label}. */
export function digits(ort, { images, labels, batches }, at) {
  const [, size] = batches.dims;
  const pixels = new Float32Array(size * 64);
  const label = new BigInt64Array(size);
  for (let i = 0; i < size; i++) {
    const row = batches.data[at * size + i];
    for (let k = 0; k < 64; k++) pixels[i * 64 + k] = images.data[row * 64 + k] / 16;
    label[i] = BigInt(labels.data[row]);
  }
  return { pixels: new ort.Tensor("float32", pixels, [size, 64]), label: new ort.Tensor("int64", label, [size]) };
}
