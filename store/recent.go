package store

// mostRecent bounds what is kept of a key and its record, in bytes each, and manyRecent of how many keys.
const (
	mostRecent = 128
	manyRecent = 8
)

// recent are the records of the keys that a slot's last decision touched first, as they are stored: of
// keys that many want, each decision finds here what the last one has left, and need not ask
// Pebble. Only decisions on the slot write there, one after the other.
type recent struct{ all []kept }

type kept struct {
	key    []byte
	record []byte // empty when nothing is stored
}

func (r *recent) get(key string) (record string, ok, known bool) {
	for i := range r.all {
		if k := &r.all[i]; string(k.key) == key {
			return string(k.record), len(k.record) > 0, true
		}
	}
	return "", false, false
}

// keep takes over from a Tx that was applied.
func (r *recent) keep(entries []*entry) {
	if len(entries) == 0 {
		return // none was touched, and none has changed
	}
	r.all = r.all[:0] // also what cannot be replaced: it may have changed too
	for _, e := range entries[:min(len(entries), manyRecent)] {
		if len(e.key) > mostRecent || len(e.rec.value)+len(e.stored.value) > mostRecent {
			continue
		}
		if len(r.all) < cap(r.all) {
			r.all = r.all[:len(r.all)+1] // with the memory of the one before
		} else {
			r.all = append(r.all, kept{})
		}
		k := &r.all[len(r.all)-1]
		k.key = append(k.key[:0], e.key...)
		now := e.stored
		if e.changed() {
			now = e.rec
		}
		if k.record = k.record[:0]; now.typ != typeNone {
			now.place = e.place
			k.record = now.append(k.record)
		}
	}
}
