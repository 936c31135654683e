// The table of ggml's C functions: result and argument types, from which binding and TypeScript types follow.

/** An address of ggml's; 0n is null. */
export type Pointer = bigint;

interface CTypes {
  readonly none: undefined;
  readonly pointer: Pointer;
  readonly i32: number;
  readonly i64: number;
  readonly size: number;
  readonly f32: number;
  readonly bool: boolean;
  readonly text: string;
  /** A typed array's memory, read or written in place during the call. */
  readonly data: NodeJS.TypedArray;
  /** The same, or null. */
  readonly dataOrNull: NodeJS.TypedArray | 0n;
  readonly initParams: { readonly mem_size: number; readonly mem_buffer: Pointer; readonly no_alloc: boolean };
}
export type CType = keyof CTypes;

/** The result, then the arguments. */
export type Signature = readonly [CType, ...CType[]];

export const baseFunctions = {
  ggml_version: ["text"],
  ggml_log_set: ["none", "pointer", "pointer"],
  ggml_set_abort_callback: ["pointer", "pointer"],
  // type, values, blocks, first value, rows, columns, importance of columns
  ggml_quantize_chunk: ["size", "i32", "data", "data", "i64", "i64", "i64", "dataOrNull"],
  ggml_threadpool_params_init: ["none", "data", "i32"],
  ggml_tensor_overhead: ["size"],
  ggml_graph_overhead_custom: ["size", "size", "bool"],
  ggml_init: ["pointer", "initParams"],
  ggml_free: ["none", "pointer"],
  ggml_new_tensor_4d: ["pointer", "pointer", "i32", "i64", "i64", "i64", "i64"],
  ggml_nbytes: ["size", "pointer"],
  ggml_op_desc: ["text", "pointer"],
  ggml_view_2d: ["pointer", "pointer", "pointer", "i64", "i64", "size", "size"],
  ggml_view_4d: ["pointer", "pointer", "pointer", "i64", "i64", "i64", "i64", "size", "size", "size", "size"],
  ggml_view_3d: ["pointer", "pointer", "pointer", "i64", "i64", "i64", "size", "size", "size"],
  ggml_reshape_2d: ["pointer", "pointer", "pointer", "i64", "i64"],
  ggml_reshape_3d: ["pointer", "pointer", "pointer", "i64", "i64", "i64"],
  ggml_reshape_4d: ["pointer", "pointer", "pointer", "i64", "i64", "i64", "i64"],
  ggml_permute: ["pointer", "pointer", "pointer", "i32", "i32", "i32", "i32"],
  ggml_cont: ["pointer", "pointer", "pointer"],
  ggml_concat: ["pointer", "pointer", "pointer", "pointer", "i32"],
  ggml_repeat_4d: ["pointer", "pointer", "pointer", "i64", "i64", "i64", "i64"],
  ggml_cpy: ["pointer", "pointer", "pointer", "pointer"],
  ggml_get_rows: ["pointer", "pointer", "pointer", "pointer"],
  ggml_set_rows: ["pointer", "pointer", "pointer", "pointer", "pointer"],
  ggml_add: ["pointer", "pointer", "pointer", "pointer"],
  ggml_add_id: ["pointer", "pointer", "pointer", "pointer", "pointer"],
  ggml_mul: ["pointer", "pointer", "pointer", "pointer"],
  ggml_div: ["pointer", "pointer", "pointer", "pointer"],
  ggml_scale: ["pointer", "pointer", "pointer", "f32"],
  // context, x, factor, addend
  ggml_scale_bias: ["pointer", "pointer", "pointer", "f32", "f32"],
  // context, x, min, max
  ggml_clamp: ["pointer", "pointer", "pointer", "f32", "f32"],
  ggml_sigmoid: ["pointer", "pointer", "pointer"],
  ggml_soft_max: ["pointer", "pointer", "pointer"],
  ggml_sum_rows: ["pointer", "pointer", "pointer"],
  ggml_top_k: ["pointer", "pointer", "pointer", "i32"],
  // context, x, order
  ggml_argsort: ["pointer", "pointer", "pointer", "i32"],
  ggml_rms_norm: ["pointer", "pointer", "pointer", "f32"],
  ggml_mul_mat: ["pointer", "pointer", "pointer", "pointer"],
  ggml_mul_mat_id: ["pointer", "pointer", "pointer", "pointer", "pointer"],
  ggml_swiglu_split: ["pointer", "pointer", "pointer", "pointer"],
  // context, a, b, alpha, limit
  ggml_swiglu_oai: ["pointer", "pointer", "pointer", "pointer", "f32", "f32"],
  // context, x, positions, divisors of frequencies, width, mode, original context, base, scale, YaRN's mix, factor, YaRN's bounds
  ggml_rope_ext: ["pointer", "pointer", "pointer", "pointer", "pointer", "i32", "i32", "i32", "f32", "f32", "f32", "f32", "f32", "f32"],
  // context, x, shifts of the four dimensions
  ggml_roll: ["pointer", "pointer", "pointer", "i32", "i32", "i32", "i32"],
  // context, q, k, v, mask, scale, ALiBi bias, soft cap of logits
  ggml_flash_attn_ext: ["pointer", "pointer", "pointer", "pointer", "pointer", "pointer", "f32", "f32", "f32"],
  ggml_flash_attn_ext_add_sinks: ["none", "pointer", "pointer"],
  // context, scores, mask, scale, ALiBi bias
  ggml_soft_max_ext: ["pointer", "pointer", "pointer", "pointer", "f32", "f32"],
  ggml_soft_max_ext_inplace: ["pointer", "pointer", "pointer", "pointer", "f32", "f32"],
  ggml_soft_max_add_sinks: ["none", "pointer", "pointer"],
  ggml_out_prod: ["pointer", "pointer", "pointer", "pointer"],
  ggml_new_graph_custom: ["pointer", "pointer", "size", "bool"],
  ggml_graph_n_nodes: ["i32", "pointer"],
  ggml_graph_node: ["pointer", "pointer", "i32"],
  ggml_build_forward_expand: ["none", "pointer", "pointer"],
  ggml_backend_free: ["none", "pointer"],
  ggml_backend_get_device: ["pointer", "pointer"],
  ggml_backend_reg_dev_count: ["size", "pointer"],
  ggml_backend_reg_dev_get: ["pointer", "pointer", "size"],
  ggml_backend_dev_init: ["pointer", "pointer", "pointer"],
  ggml_backend_dev_description: ["text", "pointer"],
  // device, free bytes, all bytes
  ggml_backend_dev_memory: ["none", "pointer", "data", "data"],
  ggml_backend_dev_type: ["i32", "pointer"],
  ggml_backend_dev_buffer_type: ["pointer", "pointer"],
  ggml_backend_dev_supports_op: ["bool", "pointer", "pointer"],
  ggml_backend_reg_get_proc_address: ["pointer", "pointer", "text"],
  ggml_backend_buft_name: ["text", "pointer"],
  ggml_backend_buft_get_alignment: ["size", "pointer"],
  ggml_backend_buft_get_max_size: ["size", "pointer"],
  ggml_backend_buft_get_alloc_size: ["size", "pointer", "pointer"],
  ggml_backend_buft_alloc_buffer: ["pointer", "pointer", "size"],
  ggml_backend_buffer_get_base: ["pointer", "pointer"],
  ggml_backend_buffer_clear: ["none", "pointer", "i32"],
  ggml_backend_buffer_free: ["none", "pointer"],
  ggml_backend_tensor_alloc: ["i32", "pointer", "pointer", "pointer"],
  ggml_backend_view_init: ["i32", "pointer"],
  ggml_backend_tensor_set: ["none", "pointer", "data", "size", "size"],
  // source, target: whole tensors of one type and shape
  ggml_backend_tensor_copy: ["none", "pointer", "pointer"],
  ggml_backend_tensor_get: ["none", "pointer", "data", "size", "size"],
  ggml_backend_graph_compute: ["i32", "pointer", "pointer"],
} as const satisfies Readonly<Record<string, Signature>>;

export const systemFunctions = {
  getpagesize: ["i32"],
  dlopen: ["pointer", "text", "i32"],
  memcpy: ["pointer", "pointer", "data", "size"],
  madvise: ["i32", "pointer", "size", "i32"],
  // address, bytes, protection, flags, file, offset
  mmap: ["pointer", "pointer", "size", "i32", "i32", "i32", "i64"],
  // address, bytes before and after, flags, where to
  mremap: ["pointer", "pointer", "size", "size", "i32", "pointer"],
  mprotect: ["i32", "pointer", "size", "i32"],
  setenv: ["i32", "text", "text", "i32"],
} as const satisfies Readonly<Record<string, Signature>>;

/** Exported by every device library; null without a driver. */
export const deviceFunctions = {
  ggml_backend_init: ["pointer"],
} as const satisfies Readonly<Record<string, Signature>>;

export const cpuFunctions = {
  ggml_backend_score: ["i32"],
  ggml_cpu_get_sve_cnt: ["i32"],
  ggml_cpu_has_avx512: ["i32"],
  ggml_cpu_has_fma: ["i32"],
  ggml_backend_cpu_init: ["pointer"],
  ggml_backend_cpu_reg: ["pointer"],
  ggml_backend_cpu_set_n_threads: ["none", "pointer", "i32"],
  ggml_backend_cpu_set_threadpool: ["none", "pointer", "pointer"],
  ggml_backend_cpu_set_use_ref: ["none", "pointer", "bool"],
  ggml_threadpool_new: ["pointer", "data"],
  ggml_threadpool_free: ["none", "pointer"],
} as const satisfies Readonly<Record<string, Signature>>;

type Arguments<S> = S extends readonly [CType, ...infer A extends readonly CType[]] ? { [K in keyof A]: CTypes[A[K]] } : never;

export type Bound<Table extends Readonly<Record<string, Signature>>> = {
  readonly [Name in keyof Table]: (...args: Arguments<Table[Name]>) => CTypes[Table[Name][0]];
};
