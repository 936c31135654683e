// A rank's devices in the spec.
import { z } from "zod";

export const devicesOfRank = z.int32().min(1).max(16).default(1).meta({
  description:
    "Devices of a rank, which share the model's layers: its dense part, attention cache and experts may take the memory of all. They compute one after another, so that ranks of one device each are faster where a model's dense part fits in one. Ask for as many in the resources of the pod template, such as nvidia.com/gpu: 2.",
});
