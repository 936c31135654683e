// Hecate's own policy moves experts as the default one does (policy-tests.ts).
import { testPolicy } from "./policy-tests.ts";

testPolicy("hecate");
