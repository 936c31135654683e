// Secret names in specs, under the API server's own rules.
import { z } from "zod";

export const secretName = (description: string) =>
  z
    .string()
    .min(1)
    .max(253)
    .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/)
    .meta({ description });

export const secretRef = (description: string, secret = "Name of a Secret in the namespace of the deployment.") =>
  z.object({ name: secretName(secret) }).meta({ description });
