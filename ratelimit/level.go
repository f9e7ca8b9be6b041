package ratelimit

// Entry is one step of a descriptor.
type Entry struct{ Key, Value string }

// level is a list of descriptors of a rule file.
type level struct{}
