"use strict";

// Slices of a volume whose voxels lie in the order x, y, z (RAS), laid out as radiologists view them: patient right on
// the left, anterior or superior at the top. The server's slices have the same rows and columns.

const DIMENSION = { sagittal: 0, coronal: 1, axial: 2 };
const LETTERS = { axial: "RLAP", coronal: "RLSI", sagittal: "APSI" }; // left, right, top, bottom

class Plane {
  constructor(axis, shape, spacing) {
    this.axis = axis;
    this.along = DIMENSION[axis];
    [this.across, this.down] = [0, 1, 2].filter((each) => each !== this.along);
    const strides = [1, shape[0], shape[0] * shape[1]];
    this.count = shape[this.along];
    this.columns = shape[this.across];
    this.rows = shape[this.down];
    this.width = this.columns * spacing[this.across]; // mm
    this.height = this.rows * spacing[this.down];
    this.step = strides[this.along];
    this.columnStep = strides[this.across];
    this.rowStep = strides[this.down];
    this.corner = (this.columns - 1) * this.columnStep + (this.rows - 1) * this.rowStep;
  }

  /** The values of a slice, row by row. */
  read(volume, index) {
    const values = new volume.constructor(this.rows * this.columns);
    let place = 0;
    for (let row = 0; row < this.rows; row++) {
      let offset = index * this.step + this.corner - row * this.rowStep;
      for (let column = 0; column < this.columns; column++, offset -= this.columnStep) values[place++] = volume[offset];
    }
    return values;
  }

  write(volume, index, values) {
    let place = 0;
    for (let row = 0; row < this.rows; row++) {
      let offset = index * this.step + this.corner - row * this.rowStep;
      for (let column = 0; column < this.columns; column++, offset -= this.columnStep) volume[offset] = values[place++];
    }
  }

  /** [slice, column, row] of a voxel [x, y, z]. */
  project(voxel) {
    return [voxel[this.along], this.columns - 1 - voxel[this.across], this.rows - 1 - voxel[this.down]];
  }

  /** The voxel [x, y, z] of a slice, column and row, inside the volume. */
  voxel(index, column, row) {
    const voxel = [0, 0, 0];
    voxel[this.along] = within(index, this.count);
    voxel[this.across] = this.columns - 1 - within(Math.round(column), this.columns);
    voxel[this.down] = this.rows - 1 - within(Math.round(row), this.rows);
    return voxel;
  }
}

function within(value, count) {
  return Math.min(Math.max(value, 0), count - 1);
}

/** [value, count, value, count, ...] */
function toRuns(values) {
  const runs = [];
  let start = 0;
  for (let place = 1; place <= values.length; place++) {
    if (place === values.length || values[place] !== values[start]) {
      runs.push(values[start], place - start);
      start = place;
    }
  }
  return runs;
}

function fromRuns(runs, length) {
  const values = new Uint8Array(length);
  for (let pair = 0, place = 0; pair < runs.length; pair += 2) {
    values.fill(runs[pair], place, place + runs[pair + 1]);
    place += runs[pair + 1];
  }
  return values;
}
