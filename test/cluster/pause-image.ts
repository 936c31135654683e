// The image of the sandbox that every pod has, built once from the program that was built for it.
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Binaries } from "./binaries.ts";
import { buildImage } from "./image.ts";
import { pauseImage } from "./node.ts";

/** Returns the path of the image's tar. */
export async function ensurePauseImage(binaries: Binaries): Promise<string> {
  const out = join(binaries.pause, "..", "pause.tar");
  if (!existsSync(out)) {
    await buildImage({
      ref: pauseImage,
      layers: [{ files: [{ path: "/pause", source: binaries.pause, mode: 0o755 }] }],
      config: { entrypoint: ["/pause"], user: "65535:65535" },
      out,
    });
  }
  return out;
}
