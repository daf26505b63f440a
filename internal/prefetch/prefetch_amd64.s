//go:build !portable

#include "textflag.h"

// func hint(p *byte, n int)
//
// PREFETCHW faults for no address. The assembler does not know it.
TEXT ·hint(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), AX
	MOVQ n+8(FP), CX
	ADDQ AX, CX

line:
	BYTE $0x0F; BYTE $0x0D; BYTE $0x08 // PREFETCHW (AX)
	ADDQ $64, AX
	CMPQ AX, CX
	JLT  line
	RET
