//go:build mutant_ask

package mutant

const AskOff = true
