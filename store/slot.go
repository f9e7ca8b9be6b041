package store

import (
	"fmt"
	"strings"
)

const slots = 16384

// crcTable is CRC-16/XMODEM, the checksum that Redis Cluster chooses slots by.
var crcTable = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i) << 8
		for range 8 {
			if c&0x8000 != 0 {
				c = c<<1 ^ 0x1021
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return t
}()

// Slot is the hash slot of key, by the rule of Redis Cluster: of what stands between the
// first { and the next } if that is not empty, otherwise of the whole key.
func Slot(key string) uint16 {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if end := strings.IndexByte(key[open+1:], '}'); end > 0 {
			key = key[open+1 : open+1+end]
		}
	}
	var crc uint16
	for i := 0; i < len(key); i++ {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^key[i]]
	}
	return crc % slots
}

// oneSlot is the slot that all keys share.
func oneSlot(keys []string) (uint16, error) {
	if len(keys) == 0 {
		return 0, fmt.Errorf("%w: a decision needs a key", ErrSlot)
	}
	slot := Slot(keys[0])
	for _, key := range keys[1:] {
		if Slot(key) != slot {
			return 0, fmt.Errorf("%w: %q and %q", ErrSlot, keys[0], key)
		}
	}
	return slot, nil
}
