// Chromium for tests of the operator's page: Debian's package chromium, or another that ENODIA_CHROMIUM names.
import { accessSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";

export function launchChromium(): Promise<Browser> {
  const executablePath = process.env.ENODIA_CHROMIUM ?? "/usr/bin/chromium";
  try {
    accessSync(executablePath);
  } catch {
    throw new Error(`there is no Chromium at ${executablePath}: apt-get install chromium, or name one by ENODIA_CHROMIUM`);
  }
  return chromium.launch({ executablePath, args: ["--no-sandbox"] });
}
