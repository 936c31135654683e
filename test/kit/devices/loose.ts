// The processor as a device whose bits are free, as those of GPUs are: its graphs are a GPU's, and what they need of it is counted.
import type { Backend, BackendOptions } from "../../../runtime/compute/backend.ts";
import { GgmlDevice } from "../../../runtime/compute/ggml/device.ts";
import type { Pointer } from "../../../runtime/compute/ggml/functions.ts";
import { backendOn } from "../../../runtime/compute/ggml/index.ts";
import { ggmlLibrary } from "../../../runtime/compute/ggml/library.ts";
import type { GraphCost } from "../../../runtime/compute/ggml/threads.ts";

export interface Work {
  /** Of each graph that ran, its nodes by name, in order; views are in them. */
  readonly graphs: (readonly string[])[];
  /** Bytes of each read. */
  readonly reads: number[];
  readonly writes: number[];
}

/** Nodes that compute nothing. */
const views: ReadonlySet<string> = new Set(["NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"]);

export const kernelsOf = (nodes: readonly string[]): string[] => nodes.filter((node) => !views.has(node));

class LooseDevice extends GgmlDevice {
  readonly #work: Work;

  constructor(work: Work, software: boolean) {
    const ggml = ggmlLibrary();
    type Get = Parameters<typeof ggml.ggml_backend_tensor_get>;
    type Set = Parameters<typeof ggml.ggml_backend_tensor_set>;
    const counted = Object.assign({}, ggml, {
      ggml_backend_tensor_get: (...call: Get) => {
        work.reads.push(call[3]);
        ggml.ggml_backend_tensor_get(...call);
      },
      ggml_backend_tensor_set: (...call: Set) => {
        work.writes.push(call[3]);
        ggml.ggml_backend_tensor_set(...call);
      },
    });
    const backend = ggml.ggml_backend_cpu_init();
    ggml.ggml_backend_cpu_set_n_threads(backend, 1);
    const bytes = 2 ** 33;
    super({
      ...{ ggml: counted, backend, description: "loose: a processor with free bits", exact: false, software, ownMemory: !software },
      computesWith: () => "loose: a processor with free bits",
      memory: () => ({ freeBytes: bytes, totalBytes: bytes }),
    });
    this.#work = work;
  }

  override compute(graph: Pointer, cost: GraphCost): void {
    const { ggml } = this;
    const nodes = Array.from({ length: ggml.ggml_graph_n_nodes(graph) }, (_, i) => ggml.ggml_op_desc(ggml.ggml_graph_node(graph, i)));
    this.#work.graphs.push(nodes);
    super.compute(graph, cost);
  }
}

/** `software`: attention as products, as on an adapter in software. */
export function looseBackend(
  options: Omit<BackendOptions, "threads"> = {},
  software = false,
): { readonly backend: Backend; readonly work: Work } {
  const work: Work = { graphs: [], reads: [], writes: [] };
  return { backend: backendOn(new LooseDevice(work, software), options), work };
}
