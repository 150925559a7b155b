"""Thrift's compact protocol, as far as the end of a Parquet file uses it: bytes to structs, and back to the same bytes.

The form: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. Fields keep their numbers;
what they mean, whoever reads them knows.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, _MAP, STRUCT = range(1, 13)
_LONG_LIST = 15


class Items(NamedTuple):
    """A list or set: what each of its items is, and the items."""

    kind: int
    values: list[Value]


class Field(NamedTuple):
    """A struct may stand here as the bytes that it is written as."""

    kind: int
    value: Value


Struct: TypeAlias = dict[int, Field]
"""Fields by their number, in the order of the bytes."""

Value: TypeAlias = bool | int | bytes | Items | Struct


def read_struct(data: bytes | memoryview) -> Struct:
    """The struct that ``data`` begins with. Raises ValueError where it ends too soon, or is of no kind known here."""
    try:
        return _Reader(data).struct()
    except IndexError as exc:
        raise ValueError("the bytes end inside a Thrift struct") from exc


class _Reader:
    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self._at = 0

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else _signed(self._varint())
            fields[number] = Field(kind, kind == TRUE if kind <= FALSE else self._value(kind))
        return fields

    def _value(self, kind: int) -> Value:
        if I16 <= kind <= I64:
            return _signed(self._varint())
        if kind == BINARY:
            return self._take(self._varint())
        if kind == STRUCT:
            return self.struct()
        if kind in (LIST, SET):
            head = self._byte()
            count, each = head >> 4, head & 15
            if count == _LONG_LIST:
                count = self._varint()
            return Items(each, [self._value(each) for _ in range(count)])
        if kind == DOUBLE:
            return self._take(8)
        if kind in (TRUE, FALSE, BYTE):  # of a list; a field's truth stands in its head
            return self._byte()
        raise ValueError(f"no such kind of Thrift value here: {kind}")

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _take(self, size: int) -> bytes:
        taken = bytes(self._data[self._at : self._at + size])
        if len(taken) < size:
            raise IndexError
        self._at += size
        return taken

    def _varint(self) -> int:
        number = shift = 0
        while (byte := self._byte()) >= 0x80:
            number |= (byte & 0x7F) << shift
            shift += 7
        return number | byte << shift


def write_struct(fields: Struct) -> bytes:
    out = bytearray()
    _put_struct(out, fields)
    return bytes(out)


def _put_struct(out: bytearray, fields: Struct) -> None:
    last = 0
    for number, (kind, value) in fields.items():
        if 0 < number - last < 16:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            _put_varint(out, _unsigned(number))
        if kind > FALSE:
            _put(out, kind, value)
        last = number
    out.append(0)


def _put(out: bytearray, kind: int, value: Value) -> None:
    if isinstance(value, Items):
        count = len(value.values)
        out.append(min(count, _LONG_LIST) << 4 | value.kind)
        if count >= _LONG_LIST:
            _put_varint(out, count)
        for each in value.values:
            _put(out, value.kind, each)
    elif isinstance(value, dict):
        _put_struct(out, value)
    elif isinstance(value, bytes):
        if kind == BINARY:
            _put_varint(out, len(value))
        out += value
    elif I16 <= kind <= I64:
        _put_varint(out, _unsigned(value))
    else:
        out.append(value)


def _put_varint(out: bytearray, number: int) -> None:
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _signed(number: int) -> int:
    """Small numbers of either sign as small ones without (zigzag), and back."""
    return number >> 1 ^ -(number & 1)


def _unsigned(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1
