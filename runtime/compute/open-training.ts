// Opens the training backend; only training loads its library.
import { AppError } from "../../crds/common.ts";
import type { TrainingBackend, TrainingOptions } from "./training.ts";

export async function createTraining(options: TrainingOptions): Promise<TrainingBackend> {
  try {
    const { createOnnxTraining } = await import("./onnx/index.ts");
    return createOnnxTraining(options);
  } catch (cause) {
    throw new AppError(`onnxruntime-node does not load (${cause instanceof Error ? cause.message : cause}); install it with "npm ci"`, {
      code: "BackendUnavailable",
      operation: "starting training",
      cause,
    });
  }
}
