// A GPU as a ggml device, and its detection in a child process, since a driver that ggml cannot use ends the process.
import { spawnSync } from "node:child_process";
import { extname, join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import { GgmlDevice } from "./device.ts";
import { ggmlLibrary, gpuInstalled, gpuRegistry } from "./library.ts";
import { type GpuName, visibleDevices } from "./packages.ts";

/** Longer than loading a driver and compiling its first kernels takes. */
const probeMsMax = 120_000;
const probeBytesMax = 1 << 20;
/** Free bytes left to the driver and to kernels loaded later. */
const reserveBytes = 64 * 2 ** 20;
/** `GGML_BACKEND_DEVICE_TYPE_GPU`: integrated ones are 2. */
const dedicated = 1;
const software = /llvmpipe|swiftshader|softpipe/i;

interface GpuFound {
  readonly index: number;
  readonly description: string;
  readonly software: boolean;
}

interface Probe {
  readonly devices: readonly GpuFound[];
  readonly reason: string;
}

const probes = new Map<string, Probe>();

function read(stdout: string): Probe {
  const lines = stdout.split("\n").filter((line) => line.startsWith("{"));
  const parsed = lines.map(
    (line) => JSON.parse(line) as { readonly index?: number; readonly description?: string; readonly reason?: string },
  );
  const devices = parsed.flatMap(({ index, description }) =>
    index === undefined || description === undefined ? [] : [{ index, description, software: software.test(description) }],
  );
  return { devices, reason: parsed.find(({ reason }) => reason !== undefined)?.reason ?? "" };
}

/** Probes once per kind; `inSoftware`: includes software adapters. */
function probeGpu(kind: GpuName, inSoftware: boolean): Probe {
  const key = `${kind} ${inSoftware}`;
  const known = probes.get(key);
  if (known !== undefined) return known;
  const args = [join(import.meta.dirname, `gpu-probe${extname(import.meta.filename)}`), kind, ...(inSoftware ? ["software"] : [])];
  const options = { encoding: "utf8", timeout: probeMsMax, maxBuffer: probeBytesMax } as const;
  const { stdout, stderr, status, signal } = spawnSync(process.execPath, args, options);
  const { devices, reason } = read(stdout ?? "");
  const last = (stderr ?? "").trim().split("\n").slice(-2).join("; ");
  const ended =
    status === 0 ? "no device is found" : `the driver ended the process that tried it (${signal ?? `exit code ${status}`}): ${last}`;
  const probe = { devices, reason: reason === "" ? ended : reason };
  probes.set(key, probe);
  return probe;
}

export function findHardware(kind: GpuName): GpuFound | undefined {
  return hardware(kind)[0];
}

function hardware(kind: GpuName): readonly GpuFound[] {
  return gpuInstalled(kind) ? probeGpu(kind, false).devices.filter((device) => !device.software) : [];
}

/**
 * Opens a hardware device (the first unless `ordinal` is set), or a software one if there is none. Throws AppError `BackendUnavailable`
 * with the reason.
 */
export function openGpu(kind: GpuName, ordinal = 0): GgmlDevice {
  if (!gpuInstalled(kind)) gpuRegistry(kind); // throws the remedy
  const inHardware = hardware(kind);
  const devices = inHardware.length > 0 ? inHardware : probeGpu(kind, true).devices;
  const found = devices[ordinal];
  if (found === undefined && devices.length > 0) {
    const asked = `backend ${kind} has ${devices.length} devices here, not ${ordinal + 1}`;
    throw new AppError(`${asked}; let the pod's resources ask for as many as spec.runtime.devices, or lower that`, {
      code: "BackendUnavailable",
      operation: `starting backend ${kind}`,
    });
  }
  if (found === undefined) {
    throw new AppError(`backend ${kind} has no device: ${probeGpu(kind, true).reason}; or set spec.runtime.backend to cpu`, {
      code: "BackendUnavailable",
      operation: `starting backend ${kind}`,
    });
  }
  const ggml = ggmlLibrary();
  if (found.software) ggml.setEnvironment(visibleDevices, "0");
  const device = ggml.ggml_backend_reg_dev_get(gpuRegistry(kind), found.index);
  const backend = ggml.ggml_backend_dev_init(device, 0n);
  if (backend === 0n) throw new AppError(`backend ${kind}: ${found.description} does not start`, { code: "BackendUnavailable" });
  ggml.reportAborts(true);
  const memory = (): { readonly free: number; readonly total: number } => {
    const [free, total] = [new BigUint64Array(1), new BigUint64Array(1)];
    ggml.ggml_backend_dev_memory(device, free, total);
    return { free: Number(free[0]), total: Number(total[0]) };
  };
  return new GgmlDevice({
    ggml,
    backend,
    description: `${kind}: ${found.description}, ${(memory().total / 2 ** 30).toFixed(1)} GiB`,
    exact: false,
    computesWith: () => `${kind} ${found.description}`,
    software: found.software,
    ownMemory: !found.software && ggml.ggml_backend_dev_type(device) === dedicated,
    memory: () => ({ freeBytes: Math.max(0, memory().free - reserveBytes), totalBytes: memory().total }),
  });
}
