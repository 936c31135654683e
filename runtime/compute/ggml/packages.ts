// The packages of ggml's libraries by device kind and machine, and remedies when one does not load.

/** Device kinds with a library beside the CPU's. */
export const gpuNames = ["cuda", "vulkan", "metal"] as const;
export type GpuName = (typeof gpuNames)[number];

/** Pinned, since another version brings another ggml. */
export const packageVersion = "3.22.1";

/** Names the Vulkan adapters that ggml may use. */
export const visibleDevices = "GGML_VK_VISIBLE_DEVICES";

export interface Library {
  readonly package: string;
  readonly folder: string;
  /** Set for a GPU; the CPU's folder has many builds. */
  readonly file: string;
  /** What to do if installing the package is not enough or possible. */
  readonly otherwise: string;
}

const scope = "@node-llama-cpp";
const cpu = (machine: string): Library => ({
  package: `${scope}/${machine}`,
  folder: `bins/${machine}`,
  file: "libggml-base.so",
  otherwise: "it wants glibc 2.34 or later, and no musl",
});
const gpu = (kind: GpuName, machine: string, folder: string): Library => ({
  package: `${scope}/${machine}`,
  folder: `bins/${folder}`,
  file: `libggml-${kind}.so`,
  otherwise: `or run the runtime image whose tag ends in -${kind}`,
});

/** Candidates are tried in this order. */
const libraries: Readonly<Record<"cpu" | GpuName, Readonly<Record<string, readonly Library[]>>>> = {
  cpu: { "linux-x64": [cpu("linux-x64")], "linux-arm64": [cpu("linux-arm64")] },
  cuda: { "linux-x64": [gpu("cuda", "linux-x64-cuda", "linux-x64-cuda"), gpu("cuda", "linux-x64-cuda-ext", "linux-x64-cuda/fallback")] },
  vulkan: { "linux-x64": [gpu("vulkan", "linux-x64-vulkan", "linux-x64-vulkan")] },
  metal: {},
};

const reasons: Readonly<Partial<Record<"cpu" | GpuName, string>>> = {
  metal: `: it is of macOS alone, and ${scope}/mac-arm64-metal has no release ${packageVersion}, whose ggml this code was written for`,
};

const instead: Readonly<Record<"cpu" | GpuName, string>> = { cpu: "reference", cuda: "cpu", vulkan: "cpu", metal: "cpu" };

export const noLibrary = (kind: "cpu" | GpuName, platform: string, arch: string): string =>
  `there is no ${kind} backend for ${platform} on ${arch}${reasons[kind] ?? ""}; set spec.runtime.backend to ${instead[kind]}`;

export const librariesOf = (kind: "cpu" | GpuName, platform: string, arch: string): readonly Library[] =>
  libraries[kind][`${platform}-${arch}`] ?? [];

const toolkit = /libcudart|libcublas/;
const driver = /libcuda\.so/;
const loader = /libvulkan/;

/** The remedy for a dynamic loader's error. */
export function remedyOf(said: string): string {
  if (toolkit.test(said)) return "the CUDA libraries are not here: run the runtime image whose tag ends in -cuda";
  if (driver.test(said))
    return "NVIDIA's driver is not visible: ask for nvidia.com/gpu and, where it is no default, the runtime class nvidia";
  if (loader.test(said)) return "the Vulkan loader (Debian: libvulkan1) is not here: run the runtime image whose tag ends in -vulkan";
  return "install the package again, or set spec.runtime.backend to cpu";
}
