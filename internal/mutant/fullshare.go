//go:build !mutant_fullshare

package mutant

// FullShare gives every process the whole of a limit while the store is gone.
const FullShare = false
