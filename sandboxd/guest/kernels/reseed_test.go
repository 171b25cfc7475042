package kernels_test

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/dormouse-sandbox/dormouse/sandboxd/guest/kernels"
)

// reseedAddons contains, for each architecture, a minimal addon for Node that gives OpenSSL's random generator new
// state. Node has no function for that, but an addon can call OpenSSL. The addons are assembled here because no C
// compiler is part of the build. The built files are beside randomness.cjs; DORMOUSE_UPDATE_GOLDEN=1 writes them again.
var reseedAddons = map[string]reseedAddon{
	"x64": {machine: 62, slot: 6, code: []byte{ // EM_X86_64, R_X86_64_GLOB_DAT
		0x48, 0x83, 0xec, 0x08, // sub rsp, 8
		0xff, 0x15, 0, 0, 0, 0, // call [rip + slot]
		0x31, 0xc0, // xor eax, eax: returns NULL, so that the module's exports stay as they are
		0x48, 0x83, 0xc4, 0x08, // add rsp, 8
		0xc3, // ret
	}, link: func(code []byte, distance uint64) { binary.LittleEndian.PutUint32(code[6:], uint32(distance-10)) }},
	"arm64": {machine: 183, slot: 1025, code: []byte{ // EM_AARCH64, R_AARCH64_GLOB_DAT
		0xfd, 0x7b, 0xbf, 0xa9, // stp x29, x30, [sp, -16]!
		0x08, 0x00, 0x00, 0x58, // ldr x8, slot
		0x00, 0x01, 0x3f, 0xd6, // blr x8
		0x00, 0x00, 0x80, 0xd2, // mov x0, 0: returns NULL, so that the module's exports stay as they are
		0xfd, 0x7b, 0xc1, 0xa8, // ldp x29, x30, [sp], 16
		0xc0, 0x03, 0x5f, 0xd6, // ret
	}, link: func(code []byte, distance uint64) {
		instruction := binary.LittleEndian.Uint32(code[4:])
		binary.LittleEndian.PutUint32(code[4:], instruction|uint32((distance-4)/4)<<5)
	}},
}

type reseedAddon struct {
	machine uint16
	slot    uint64                             // the type of the relocation that writes a function's address to the slot
	code    []byte                             // calls the function whose address is in the slot
	link    func(code []byte, distance uint64) // writes the slot's distance from the first byte of the code into the code
}

// build returns a shared library that exports napi_register_module_v1. Node calls this function each time it opens
// the library, and the function calls RAND_poll.
func (a reseedAddon) build() []byte {
	const (
		function, wanted = "napi_register_module_v1", "RAND_poll"
		headers          = 64 + 4*56
		data             = 1 << 16 // the offset of writable data, so that it is in separate pages for every page size
	)
	order := binary.LittleEndian
	names := []byte("\x00" + function + "\x00" + wanted + "\x00")
	var text bytes.Buffer
	put := func(values ...any) (at uint64) {
		for text.Len()%8 != 0 {
			text.WriteByte(0)
		}
		at = headers + uint64(text.Len())
		for _, value := range values {
			_ = binary.Write(&text, order, value) // never fails, because text is in memory
		}
		return at
	}
	type symbol struct {
		Name           uint32
		Info, Other    uint8
		Section        uint16
		Address, Bytes uint64
	}
	const symbolBytes, relocationBytes = 24, 24
	sizes := []int{6 * 4, len(names), 3 * symbolBytes, relocationBytes, len(a.code), 11 * 16, 8}
	end := uint64(headers)
	var places []uint64
	for _, size := range sizes {
		end = (end + 7) &^ 7
		places = append(places, end)
		end += uint64(size)
	}
	hashAt, namesAt, symbolsAt, relocationsAt, codeAt, dynamicAt, slotAt := places[0], places[1], places[2], places[3], places[4], places[5]+data, places[6]+data
	code := bytes.Clone(a.code)
	a.link(code, slotAt-codeAt)
	const global, isFunction = 1 << 4, 2
	put([]uint32{1, 3, 1, 0, 2, 0}) // the hash table has one bucket, with symbol 1 and then symbol 2
	put(names)
	put(symbol{}, symbol{Name: 1, Info: global | isFunction, Section: 1, Address: codeAt, Bytes: uint64(len(code))},
		symbol{Name: uint32(len(function) + 2), Info: global | isFunction})
	put([]uint64{slotAt, 2<<32 | a.slot, 0})
	put(code)
	const (
		tagHash, tagStrings, tagSymbols, tagRela, tagRelaBytes, tagRelaEntry, tagStringBytes, tagSymbolEntry = 4, 5, 6, 7, 8, 9, 10, 11
		tagFlags, bindNow                                                                                    = 30, 8
	)
	put([]uint64{tagHash, hashAt, tagStrings, namesAt, tagSymbols, symbolsAt, tagStringBytes, uint64(len(names)), tagSymbolEntry, symbolBytes,
		tagRela, relocationsAt, tagRelaBytes, relocationBytes, tagRelaEntry, relocationBytes, tagFlags, bindNow, 0, 0, 0, 0})
	put(uint64(0))

	var file bytes.Buffer
	write := func(value any) { _ = binary.Write(&file, order, value) }
	file.WriteString("\x7fELF\x02\x01\x01")
	file.Write(make([]byte, 9))
	write([]uint16{3, a.machine}) // 3 is the type of a shared library
	write(uint32(1))
	write([]uint64{0, 64, 0})
	write(uint32(0))
	write([]uint16{64, 56, 4, 64, 0, 0})
	segment := func(kind, flags uint32, at, from, to, align uint64) {
		write([]uint32{kind, flags})
		write([]uint64{from - at, from, from, to - from, to - from, align})
	}
	const load, dynamic, stack, read, writable, execute = 1, 2, 0x6474e551, 4, 2, 1
	segment(load, read|execute, 0, 0, codeAt+uint64(len(code)), data)
	segment(load, read|writable, data, dynamicAt, end+data, data)
	segment(dynamic, read|writable, data, dynamicAt, slotAt, 8)
	segment(stack, read|writable, 0, 0, 0, 16)
	file.Write(text.Bytes())
	return file.Bytes()
}

func TestReseedAddonsAreAsBuilt(t *testing.T) {
	for arch, addon := range reseedAddons {
		name := filepath.Join("javascript", "reseed-"+arch+".node")
		want := addon.build()
		if os.Getenv("DORMOUSE_UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := fs.ReadFile(kernels.Files, filepath.ToSlash(name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has %x, %v, want %x; DORMOUSE_UPDATE_GOLDEN=1 writes it", name, got, err, want)
		}
	}
}
