//go:build mutant_gateoff

package mutant

const GateOff = true
