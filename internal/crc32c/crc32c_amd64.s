//go:build !portable

#include "textflag.h"

// func streams(crc uint32, p *byte, words int, join *[2]uint64) uint32
TEXT ·streams(SB), NOSPLIT, $0-36
	MOVL crc+0(FP), AX
	MOVQ p+8(FP), SI
	MOVQ words+16(FP), CX
	MOVQ join+24(FP), DI

	// The last word of each stream, and minus the words before it.
	LEAQ -8(SI)(CX*8), SI
	LEAQ (SI)(CX*8), R9
	LEAQ (R9)(CX*8), R10
	XORL BX, BX
	XORL DX, DX
	NEGQ CX
	INCQ CX
	JZ   join

word:
	CRC32Q (SI)(CX*8), AX
	CRC32Q (R9)(CX*8), BX
	CRC32Q (R10)(CX*8), DX
	INCQ   CX
	JNZ    word

join:
	CRC32Q    (SI), AX
	CRC32Q    (R9), BX
	MOVQ      AX, X0
	MOVQ      BX, X1
	MOVQ      (DI), X2
	MOVQ      8(DI), X3
	PCLMULQDQ $0, X2, X0
	PCLMULQDQ $0, X3, X1
	PXOR      X1, X0
	MOVQ      X0, AX
	XORQ      (R10), AX
	CRC32Q    AX, DX
	MOVL      DX, ret+32(FP)
	RET

// func wide(crc uint32, p *byte, n int, by *[3]folding) uint32
TEXT ·wide(SB), NOSPLIT, $0-36
	MOVL crc+0(FP), AX
	MOVQ p+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ by+24(FP), DI

	VMOVD     AX, X0
	VMOVDQU64 (SI), Z1
	VMOVDQU64 64(SI), Z2
	VMOVDQU64 128(SI), Z3
	VMOVDQU64 192(SI), Z4
	VPXORQ    Z0, Z1, Z1
	VMOVDQU64 (DI), Z0
	ADDQ      $256, SI
	SUBQ      $256, CX

by256:
	CMPQ       CX, $256
	JLT        merge
	VPCLMULQDQ $0x00, Z0, Z1, Z5
	VPCLMULQDQ $0x11, Z0, Z1, Z1
	VPCLMULQDQ $0x00, Z0, Z2, Z6
	VPCLMULQDQ $0x11, Z0, Z2, Z2
	VPCLMULQDQ $0x00, Z0, Z3, Z7
	VPCLMULQDQ $0x11, Z0, Z3, Z3
	VPCLMULQDQ $0x00, Z0, Z4, Z8
	VPCLMULQDQ $0x11, Z0, Z4, Z4
	VPTERNLOGQ $0x96, (SI), Z5, Z1    // XOR of all three
	VPTERNLOGQ $0x96, 64(SI), Z6, Z2
	VPTERNLOGQ $0x96, 128(SI), Z7, Z3
	VPTERNLOGQ $0x96, 192(SI), Z8, Z4
	ADDQ       $256, SI
	SUBQ       $256, CX
	JMP        by256

merge:
	VMOVDQU64  64(DI), Z0
	VPCLMULQDQ $0x00, Z0, Z1, Z5
	VPCLMULQDQ $0x11, Z0, Z1, Z1
	VPTERNLOGQ $0x96, Z1, Z5, Z2
	VPCLMULQDQ $0x00, Z0, Z2, Z5
	VPCLMULQDQ $0x11, Z0, Z2, Z2
	VPTERNLOGQ $0x96, Z2, Z5, Z3
	VPCLMULQDQ $0x00, Z0, Z3, Z5
	VPCLMULQDQ $0x11, Z0, Z3, Z3
	VPTERNLOGQ $0x96, Z3, Z5, Z4

by64:
	TESTQ      CX, CX
	JZ         last
	VPCLMULQDQ $0x00, Z0, Z4, Z5
	VPCLMULQDQ $0x11, Z0, Z4, Z4
	VPTERNLOGQ $0x96, (SI), Z5, Z4
	ADDQ       $64, SI
	SUBQ       $64, CX
	JMP        by64

last:
	// The first three quarters of Z4 move to the last one.
	VMOVDQU64     128(DI), Z0
	VPCLMULQDQ    $0x00, Z0, Z4, Z1
	VPCLMULQDQ    $0x11, Z0, Z4, Z2
	VPXORQ        Z2, Z1, Z1
	VEXTRACTI64X2 $3, Z4, X4
	VEXTRACTI64X2 $1, Z1, X2
	VEXTRACTI64X2 $2, Z1, X3
	VPXOR         X2, X1, X1
	VPXOR         X3, X4, X4
	VPXOR         X4, X1, X1
	VMOVQ         X1, AX
	VPEXTRQ       $1, X1, BX
	VZEROUPPER
	XORL          DX, DX
	CRC32Q        AX, DX
	CRC32Q        BX, DX
	MOVL          DX, ret+32(FP)
	RET

// func rest(crc uint32, p *byte, n int) uint32
TEXT ·rest(SB), NOSPLIT, $0-28
	MOVL crc+0(FP), AX
	MOVQ p+8(FP), SI
	MOVQ n+16(FP), CX

words:
	SUBQ   $8, CX
	JLT    long
	CRC32Q (SI), AX
	ADDQ   $8, SI
	JMP    words

long:
	BTQ    $2, CX
	JNC    word
	CRC32L (SI), AX
	ADDQ   $4, SI

word:
	BTQ    $1, CX
	JNC    byte
	CRC32W (SI), AX
	ADDQ   $2, SI

byte:
	BTQ    $0, CX
	JNC    done
	CRC32B (SI), AX

done:
	MOVL AX, ret+24(FP)
	RET

// func product(a, b uint32) uint32
TEXT ·product(SB), NOSPLIT, $0-12
	MOVL      a+0(FP), X0
	MOVL      b+4(FP), X1
	PCLMULQDQ $0, X1, X0
	MOVQ      X0, AX
	XORL      BX, BX
	CRC32Q    AX, BX
	MOVL      BX, ret+8(FP)
	RET
