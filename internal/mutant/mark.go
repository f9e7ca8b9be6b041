//go:build !mutant_mark

package mutant

// MarkLost has tokens follow the engine's clock alone, which can go back.
const MarkLost = false
