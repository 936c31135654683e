// The frame of every kernel: parameters, bindings, entry point, workgroup numbering, reductions. Pure text.
// Kernels are plain f32 and need nothing beyond WebGPU's core features.

export const workgroupSize = 64;

/** Words of the uniform all kernels share: rows of the call, tokens a slot, first slot, context of the cache. */
export const paramWords = 4;

export interface Storage {
  readonly name: string;
  readonly type: "f32" | "i32" | "vec2<f32>" | "vec4<f32>" | "vec4<u32>";
  readonly access: "read" | "read_write";
}

export const reads = (name: string, type: Storage["type"] = "f32"): Storage => ({ name, type, access: "read" });
export const writes = (name: string, type: Storage["type"] = "f32"): Storage => ({ name, type, access: "read_write" });

export interface Shader {
  readonly storage: readonly Storage[];
  /** Declarations before the entry point. */
  readonly declarations?: string;
  /** Workgroups in all, as a WGSL expression over params; must equal the host's count or be exceeded by it. */
  readonly groups: string;
  /** Sees `group` (workgroup number, uniform) and `lane` (thread within it). */
  readonly body: string;
}

export function shader({ storage, declarations = "", groups, body }: Shader): string {
  const bindings = storage.map(
    ({ name, type, access }, i) => `@group(0) @binding(${i + 1}) var<storage, ${access}> ${name}: array<${type}>;`,
  );
  return `struct Params { rows: u32, tokens: u32, firstSlot: u32, context: u32 }
@group(0) @binding(0) var<uniform> params: Params;
${bindings.join("\n")}
${declarations}
@compute @workgroup_size(${workgroupSize})
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = workgroup.y * grid.x + workgroup.x;
  if (group >= ${groups}) { return; }
${body}
}
`;
}

/** A value of all lanes combined; every lane of the workgroup must call it. */
export function reduction(name: string, combine: (a: string, b: string) => string): string {
  return `var<workgroup> ${name}Lanes: array<f32, ${workgroupSize}>;
fn ${name}(lane: u32, value: f32) -> f32 {
  ${name}Lanes[lane] = value;
  workgroupBarrier();
  for (var step = ${workgroupSize / 2}u; step > 0u; step >>= 1u) {
    if (lane < step) { ${name}Lanes[lane] = ${combine(`${name}Lanes[lane]`, `${name}Lanes[lane + step]`)}; }
    workgroupBarrier();
  }
  let all = ${name}Lanes[0];
  workgroupBarrier();
  return all;
}
`;
}

/** A literal that WGSL reads as f32. */
export function f32(value: number): string {
  const text = String(value);
  return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
}
